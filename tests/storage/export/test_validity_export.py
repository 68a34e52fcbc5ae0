"""Validity in exports: masks and alpha, at every level."""

import itertools

import numpy as np
import pytest
import rasterio

from storage.export.export_image import export
from storage.geo import Georeference
from storage.image_metadata import ImageMetadata
from storage.publishing.publish import plan_levels
from storage.publishing.pyramid_writer import Publication
from storage.readers.reader_registry import open_image

SIDE = 1300
HIDDEN = 200

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(50, 90, (3, SIDE, SIDE)).astype("uint8")


@pytest.fixture(scope="module")
def valid():
    marks = np.ones((SIDE, SIDE), bool)
    marks[100:701, 333:900] = False
    marks[::7, 1000] = False
    return marks


@pytest.fixture
def published(tmp_path, pixels, valid):
    """Return what publishes the image with a form of its validity."""
    from concurrent.futures import ThreadPoolExecutor

    def publish(form, place=(10.0, 0.0, 3e5, 0.0, -10.0, 5e6), finish=True):
        out = tmp_path / f"{form}.zarr"
        geo = None if place is None else Georeference(crs="", transform=place)
        metadata = ImageMetadata(mask=form, geo=geo)
        levels = plan_levels(pixels.shape, "uint8", shard=1024)
        writer = Publication(out, tuple(levels), masked=True)
        group = writer.group(name="i", metadata=metadata, attributes={})
        writer.begin(group)
        hidden = np.where(valid, pixels, np.uint8(HIDDEN))
        with ThreadPoolExecutor(2) as pool:
            for row, col in levels[0].places():
                if writer.has(0, row, col):
                    continue
                rows, columns = levels[0].box(row, col).slices()
                marks = np.broadcast_to(valid[rows, columns], pixels[:, rows, columns].shape)
                writer.write(row, col, hidden[:, rows, columns], pool, valid=marks)
                writer.climb(row, col, pool)
        writer.finish(group)
        return out

    return publish


def halved(marks):
    even = np.pad(marks, [(0, side % 2) for side in marks.shape], mode="edge")
    height, width = even.shape
    return even.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3))


def test_coarser_levels_are_means_of_valid_samples_and_valid_where_one_is(published, valid):
    out = published("mask")
    for level in range(1, 3):
        valid = halved(valid)
        reader = open_image(out, level=level)
        pixels, marks = reader.read_valid(reader.info.box)
        assert np.array_equal(marks, np.broadcast_to(valid, marks.shape))
        assert pixels[marks].max() < 90
        assert (pixels[~marks] == HIDDEN).all()


@pytest.mark.parametrize("form", ["mask", "alpha"])
@pytest.mark.parametrize("kind", ["tiff", "geotiff", "cog"])
def test_every_level_of_a_tiff_has_its_mask(tmp_path, published, valid, form, kind):
    export(published(form), tmp_path / "e.tif", format=kind)
    with rasterio.open(tmp_path / "e.tif") as dataset:
        assert np.array_equal(dataset.read_masks(2) != 0, valid)
        factors = dataset.overviews(1)
    assert factors == [2, 4]
    for number in range(len(factors)):
        valid = halved(valid)
        with rasterio.open(tmp_path / "e.tif", overview_level=number) as dataset:
            assert np.array_equal(dataset.read_masks(2) != 0, valid)


def test_the_masks_of_a_cog_stand_in_its_order(tmp_path, published):
    """Tables first, then data, that of the smallest level first; leaders and trailers as said."""
    import tifffile

    export(published("mask"), tmp_path / "e.tif", format="cog")
    data = (tmp_path / "e.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "e.tif") as tiff:
        kinds = [int(page.subfiletype) for page in tiff.pages]
        places = [
            list(zip(page.dataoffsets, page.databytecounts, strict=True)) for page in tiff.pages
        ]
        tables = max(page.offset for page in tiff.pages)
    assert kinds == [0, 4, 1, 5, 1, 5]
    starts = [place[0][0] for place in places]
    assert tables < starts[4] < starts[5] < starts[2] < starts[3] < starts[0] < starts[1]
    for offset, count in itertools.chain(*places):
        assert data[offset - 4 : offset] == count.to_bytes(4, "little")
        assert (
            data[offset + count : offset + count + 4] == data[offset + count - 4 : offset + count]
        )


@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_openslide_sees_the_levels_of_a_slide_and_not_its_masks(
    tmp_path, published, valid, compression
):
    openslide = pytest.importorskip("openslide")
    export(published("mask", None), tmp_path / "e.tif", compression=compression)
    with openslide.OpenSlide(tmp_path / "e.tif") as slide:
        assert slide.level_dimensions == ((1300, 1300), (650, 650), (325, 325))
        alpha = np.asarray(slide.read_region((0, 0), 0, (SIDE, SIDE)))[..., 3]
    assert compression == "jpeg" or np.array_equal(alpha != 0, valid)
    with rasterio.open(tmp_path / "e.tif") as dataset:
        assert np.array_equal(dataset.dataset_mask() != 0, valid)
    reader = open_image(tmp_path / "e.tif")
    assert np.array_equal(reader.read_valid(reader.info.box)[1][0], valid)


@pytest.mark.parametrize("name", ["e.jpg", "e.ome.tif"])
def test_a_format_without_a_place_for_validity_says_so(tmp_path, published, name):
    (note,) = export(published("mask"), tmp_path / name)
    assert "has no place for which pixels are valid" in note
    assert export(tmp_path / "mask.zarr", tmp_path / "e.png") == ()
