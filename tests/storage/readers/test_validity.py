"""Which samples are valid is read from wherever a format keeps it, as rasterio reads it."""

import base64
import struct

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from rasterio.enums import MaskFlags

from storage.box import Box
from storage.errors import FormatError
from storage.image import Selection
from storage.readers.cache import CachedReader
from storage.readers.reader_registry import inspect, open_image
from storage.readers.staging import stage
from tests.storage.readers.masked_images import (
    BY_GDAL,
    SIDE,
    VALID,
    page_of_photometric_alone,
    png,
    samples,
    two_pages,
    with_transparency,
    write,
)

BOXES = (Box(0, 0, SIDE, SIDE), Box(11, 3, 60, 79), Box(25, 32, 40, 40))

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def valid_of(reader, box):
    """Return (C, h, w) of what a reader says."""
    pixels, valid = reader.read_valid(box)
    assert np.array_equal(pixels, reader.read(box), equal_nan=pixels.dtype.kind == "f")
    return np.ones(pixels.shape, bool) if valid is None else np.broadcast_to(valid, pixels.shape)


@pytest.mark.parametrize("make", BY_GDAL, ids=lambda make: make.__name__)
def test_validity_is_what_rasterio_says_and_survives_staging(tmp_path, make):
    path = make(tmp_path / "in.tif")
    reader = open_image(path)
    with rasterio.open(path) as dataset:
        masks = dataset.read_masks()[: reader.info.channels] != 0
        nodata = MaskFlags.nodata in dataset.mask_flag_enums[0]
    if make is page_of_photometric_alone:  # which GDAL takes for a picture
        masks = VALID[None]
    assert not masks.all()
    assert bool(reader.info.mask) != nodata
    assert bool(reader.info.valid_by) != nodata
    stage(path, tmp_path / "staged.zarr")
    staged = open_image(tmp_path / "staged.zarr")
    cached = CachedReader(open_image(path))
    for box in BOXES:
        for opened in (reader, staged, cached):
            assert np.array_equal(valid_of(opened, box), masks[(slice(None), *box.slices())])
    assert (staged.info.mask, staged.info.valid_by) == (reader.info.mask, reader.info.valid_by)


def test_tiles_without_bytes_and_nodata_hold_no_measurement(tmp_path):
    path = tmp_path / "in.tif"
    pixels = np.zeros((3, SIDE, SIDE), "uint8")
    pixels[:, 32:64, :32] = samples(3)[:, 32:64, :32]
    write(path, pixels, tiled=True, blockxsize=32, blockysize=32, sparse_ok=True)
    reader = open_image(path)
    assert (reader.info.mask, reader.info.valid_by) == ("mask", "tiles without bytes")
    assert np.array_equal(valid_of(reader, reader.info.box), pixels != 0)


def test_a_mask_file_of_a_band_each_is_read_band_by_band(tmp_path):
    path = write(tmp_path / "in.tif", samples(2))
    masks = np.stack([VALID, ~VALID])
    write(tmp_path / "in.tif.msk", masks.astype("uint8") * 255)
    reader = open_image(path)
    assert np.array_equal(valid_of(reader, reader.info.box), masks)
    second = open_image(path, Selection(channel=(1,)))
    assert np.array_equal(valid_of(second, second.info.box), masks[1:])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3])
def test_alpha_of_a_png_says_which_pixels_are_valid(tmp_path, bands, dtype):
    alpha = (VALID * np.iinfo(dtype).max).astype(dtype)
    path = png(tmp_path / "in.png", np.dstack([*samples(bands, dtype), alpha]))
    reader = open_image(path)
    assert (reader.info.mask, reader.info.valid_by) == ("alpha", "alpha channel")
    assert np.array_equal(valid_of(reader, reader.info.box)[0], VALID)
    chosen = open_image(path, Selection(channel=tuple(range(bands + 1))))
    assert valid_of(chosen, chosen.info.box).all()
    assert not chosen.info.mask


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_transparent_colour_of_a_png_is_no_measurement(tmp_path, interlaced):
    rows = samples(3).transpose(1, 2, 0)
    rows[~VALID] = (1, 2, 3)
    rows[0, 40] = (1, 2, 4)  # another colour
    payload = bytes([0, 1, 0, 2, 0, 3])
    stored = rows.reshape(SIDE, -1)
    path = with_transparency(tmp_path / "in.png", payload, 8, 2, stored, interlaced=interlaced)
    reader = open_image(path)
    assert reader.info.mask == "alpha"
    assert np.array_equal(reader.read(reader.info.box), rows.transpose(2, 0, 1))
    assert np.array_equal(valid_of(reader, reader.info.box)[0], VALID)
    turned = open_image(path, Selection(channel=(2, 1, 0)))
    assert np.array_equal(valid_of(turned, turned.info.box)[0], VALID)


def test_a_transparent_grey_of_16_bits_is_no_measurement(tmp_path):
    grey = np.where(VALID, samples(1, "uint16")[0], 700)
    rows = grey.astype(">u2").view("uint8").reshape(SIDE, -1)
    path = with_transparency(tmp_path / "in.png", bytes([2, 188]), 16, 0, rows)
    reader = open_image(path)
    assert np.array_equal(valid_of(reader, reader.info.box)[0], VALID)


def test_transparent_palette_entries_of_a_png_are_no_measurement(tmp_path):
    numbers = np.where(VALID, 2, 1).astype("uint8")
    numbers[3, 60] = 0
    palette = bytes([9, 9, 9, 20, 30, 40, 200, 100, 50])
    path = with_transparency(tmp_path / "in.png", bytes([128, 0]), 8, 3, numbers, palette)
    reader = open_image(path)
    assert reader.info.valid_by == "transparent palette entries"
    assert np.array_equal(valid_of(reader, reader.info.box)[0], VALID)
    stage(path, tmp_path / "staged.zarr")
    for opened in (reader, open_image(tmp_path / "staged.zarr")):
        opacity = np.broadcast_to(opened.opacity(reader.info.box), reader.info.shape)
        assert np.array_equal(opacity[0], np.array([128, 0, 255])[numbers])


def test_a_palette_entry_of_a_tiff_that_means_no_data_is_no_measurement(tmp_path):
    numbers = np.where(VALID, samples(1)[0], 7).astype("uint8")
    colours = np.arange(768, dtype="uint16").reshape(3, 256) * 60
    tag = (42113, 2, 0, "7", True)
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, numbers, photometric="palette", colormap=colours, extratags=[tag])
    reader = open_image(path)
    assert (reader.info.mask, reader.info.valid_by) == ("mask", "palette entry")
    assert reader.info.nodata is None
    assert np.array_equal(valid_of(reader, reader.info.box)[1], VALID)


@pytest.mark.parametrize("alpha", [False, True])
def test_the_last_of_four_bands_of_a_jp2_is_alpha_only_where_it_says_so(tmp_path, alpha):
    pixels = np.concatenate([samples(3), (VALID * 255).astype("uint8")[None]])
    plain = {} if alpha else {"photometric": "MINISBLACK", "ALPHA": "UNSPECIFIED"}
    options = {"photometric": "RGB", **plain}
    write(tmp_path / "in.tif", pixels, alpha=alpha or None, **options)
    path = tmp_path / "in.jp2"
    driver = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    rasterio.shutil.copy(tmp_path / "in.tif", path, **driver)
    reader = open_image(path)
    assert reader.info.channels == (3 if alpha else 4)
    with rasterio.open(path) as dataset:
        expected = dataset.dataset_mask() != 0
        assert np.array_equal(reader.read(reader.info.box), dataset.read()[: reader.info.channels])
    assert np.array_equal(valid_of(reader, reader.info.box)[0], expected)


def test_a_mask_file_of_another_size_is_refused_on_one_line(tmp_path):
    path = write(tmp_path / "in.tif", samples(1))
    write(tmp_path / "in.tif.msk", samples(1)[:, :-1])
    with pytest.raises(FormatError, match=r"in.tif.msk: the mask of .* is 79 x 80 px") as caught:
        inspect(path)
    assert "\n" not in str(caught.value)


def test_a_file_beside_that_is_no_mask_is_left_alone(tmp_path):
    path = write(tmp_path / "in.tif", samples(1))
    (tmp_path / "in.tif.msk").write_text("not a mask")
    assert not inspect(path).mask


def test_a_mask_page_that_cannot_be_read_is_refused(tmp_path):
    path = two_pages(tmp_path / "in.tif", samples(1)[0], samples(1, "uint16")[0])
    with pytest.raises(FormatError, match="its mask page has 1 samples of 16 bits"):
        inspect(path)


def zarr_array(path, pixels, attributes, **options):
    import zarr

    array = zarr.create_array(str(path), shape=pixels.shape, dtype=pixels.dtype, **options)
    array[:] = pixels
    array.attrs.update(attributes)
    return path


def in_base64(number):
    """Return a fill value as xarray writes it into zarr 3."""
    return base64.standard_b64encode(struct.pack("<d", number)).decode()


@pytest.mark.parametrize(
    ("said", "marker"),
    [
        ({"_FillValue": -9999}, -9999),
        ({"missing_value": 1e20}, 1e20),
        ({"_FillValue": in_base64(1e20)}, 1e20),
        ({"_FillValue": in_base64(float("nan"))}, np.nan),
        ({"_FillValue": "NaN"}, np.nan),
    ],
)
def test_the_fill_value_that_a_zarr_array_names_is_no_measurement(tmp_path, said, marker):
    pixels = np.where(VALID, samples(1, "float32")[0], np.float32(marker)).astype("float32")
    path = zarr_array(tmp_path / "in.zarr", pixels, said, dimension_names=("y", "x"))
    reader = open_image(path)
    assert np.array_equal(valid_of(reader, reader.info.box)[0], VALID)


def test_zarr_of_format_2_names_it_as_the_fill_value_of_named_dimensions(tmp_path):
    for fill, dims, expected in ((7, ["y", "x"], VALID), (7, None, None), (0, ["y", "x"], None)):
        pixels = np.where(VALID, samples(1)[0], fill).astype("uint8")
        path = tmp_path / f"{fill}{dims is None}.zarr"
        named = {"_ARRAY_DIMENSIONS": dims} if dims else {}
        zarr_array(path, pixels, named, zarr_format=2, fill_value=fill)
        reader = open_image(path)
        valid = valid_of(reader, reader.info.box)[0]
        assert np.array_equal(valid, np.ones_like(VALID) if expected is None else expected)


def test_a_map_of_classes_is_refused_on_one_line(tmp_path):
    transform = rasterio.Affine(10, 0, 3e5, 0, -10, 5e6)
    for name, options in (("in.tif", {}), ("p.tif", {"photometric": "PALETTE"})):
        path = write(tmp_path / name, samples(1), crs="EPSG:32633", transform=transform, **options)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, {number: (number, 9, 9, 255) for number in range(256)})
        with pytest.raises(FormatError, match="class numbers with a colour table") as caught:
            inspect(path)
        assert "\n" not in str(caught.value)
