"""Restore and export, read back by other programs: pixel size, map coordinates, nodata and 16 bits
survive the way.

Every tile is taken for flat (--skip-flat above the dtype's range), so that the pixels are those of
the input repeated: the whole way is real but for the network, and what has to come out is known
exactly.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from storage.export.export_image import export
from tests.places import ROOT

DATA = ROOT.parent / "shared" / "data"
SCALE = 4
FLAT = 1 << 17


def shared(name):
    """Return a collected file, or skip where the collection is not there."""
    folder = Path(os.environ.get("GIGARESTORE_TEST_DATA", DATA))
    if not (folder / name).exists():
        pytest.skip(f"{name} is not among the test data")
    return folder / name


@pytest.fixture
def restored(tmp_path, job, serially):
    """Restore a file x4 and return the folder of the result."""

    def run(source, **other):
        tiling = {"tile": 512, "stride": 448, "margin": 32, "levels": 1}
        spec = job(
            source,
            tmp_path / "out.zarr",
            task={"name": "sr", "scale": SCALE, "skip_flat": FLAT},
            tiling=tiling,
            **other,
        )
        serially(spec)
        return tmp_path / "out.zarr"

    return run


def repeated(pixels):
    return pixels.repeat(SCALE, axis=-2).repeat(SCALE, axis=-1)


def write_geotiff(path, pixels, transform, nodata=None, point=False, epsg=32633):
    """Write (C, H, W) as GDAL does; transform: (a, b, c, d, e, f)."""
    rasterio = pytest.importorskip("rasterio")
    channels, height, width = pixels.shape
    size = {"count": channels, "height": height, "width": width, "dtype": pixels.dtype}
    layout = {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "compress": "deflate",
    }
    crs = rasterio.CRS.from_epsg(epsg)
    with rasterio.open(
        path, "w", crs=crs, transform=rasterio.Affine(*transform), nodata=nodata, **size, **layout
    ) as file:
        file.write(pixels)
        if point:
            file.update_tags(AREA_OR_POINT="Point")
    return path


NORTH_UP = (30.0, 0.0, 399960.123, 0.0, -30.0, 4900020.456)
ROTATED = (26.0, 15.0, 399960.123, 15.0, -26.0, 4900020.456)


def scene(channels=3, dtype=np.uint16):
    """A scene with a corner of nodata (0) that lies on no grid of the output."""
    pixels = np.random.default_rng(1).integers(1, 9000, (channels, 150, 170)).astype(dtype)
    pixels[:, :37, :53] = 0
    return pixels


def corners(file):
    """Return the map coordinates of the four corners of an open file."""
    places = [(x, y) for y in (0, file.height) for x in (0, file.width)]
    a, b, c, d, e, f = file.transform[:6]
    return [value for x, y in places for value in (a * x + b * y + c, d * x + e * y + f)]


def check_map(file, source, scale=SCALE):
    """Compare extent, system, nodata and convention of two georeferenced files."""
    import rasterio

    with rasterio.open(source) as before, rasterio.open(file) as after:
        assert corners(after) == pytest.approx(corners(before), rel=0, abs=1e-9)
        assert after.shape == (before.height * scale, before.width * scale)
        assert after.crs == before.crs
        assert after.nodata == before.nodata
        assert after.tags().get("AREA_OR_POINT") == before.tags().get("AREA_OR_POINT")
        assert after.dtypes == before.dtypes
        return before.read(), after.read()


@pytest.mark.parametrize("format", ["tiff", "cog"])
@pytest.mark.parametrize("point", [False, True], ids=["area", "point"])
@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED], ids=["north-up", "rotated"])
@pytest.mark.slow
def test_a_georeferenced_file_keeps_its_place(tmp_path, restored, transform, point, format):
    cogeo = pytest.importorskip("rio_cogeo")
    source = write_geotiff(tmp_path / "in.tif", scene(), transform, nodata=0, point=point)
    export(restored(source), tmp_path / "out.tif", format=format, compression="zstd")
    before, after = check_map(tmp_path / "out.tif", source)
    assert np.array_equal(after, repeated(before))
    if format == "cog":
        assert cogeo.cog_validate(tmp_path / "out.tif", strict=True)[0]


@pytest.mark.slow
def test_bands_beyond_three_and_their_names_are_kept(tmp_path, restored):
    rasterio = pytest.importorskip("rasterio")
    source = write_geotiff(tmp_path / "in.tif", scene(6), NORTH_UP, nodata=0)
    with rasterio.open(source, "r+") as file:
        file.descriptions = names = tuple(f"B{band}" for band in range(1, 7))
    export(restored(source), tmp_path / "out.tif", format="cog")
    before, after = check_map(tmp_path / "out.tif", source)
    assert np.array_equal(after, repeated(before))
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.descriptions == names


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_elevations_keep_their_dtype_sign_and_nodata(tmp_path, restored, dtype):
    pixels = scene(1, dtype) - 4000
    pixels[pixels == -4000] = -9999
    source = write_geotiff(tmp_path / "in.tif", pixels, NORTH_UP, nodata=-9999)
    export(restored(source, input={"values": (-9999, 9000)}), tmp_path / "out.tif")
    before, after = check_map(tmp_path / "out.tif", source)
    assert np.abs(after - repeated(before)).max() <= (0 if dtype == "int16" else 1e-2)
    assert np.array_equal(after == -9999, repeated(before) == -9999)


def test_a_slide_keeps_a_quarter_of_its_pixel_size_in_ome_tiff_and_for_openslide(
    tmp_path, restored
):
    openslide = pytest.importorskip("openslide")
    y, x = np.mgrid[:160, :200]
    pixels = np.stack([100 + 90 * np.sin(x / 9 + c) * np.cos(y / 7) for c in range(3)]).astype(
        np.uint8
    )
    # What an Aperio slide says; tifffile writes it as a tiled page with this description.
    description = (
        "Aperio Image Library v10.0.51\r\n200x160 [0,0 200x160] (240x240)|AppMag = 20|MPP = 0.4990"
    )
    tifffile.imwrite(
        tmp_path / "in.svs",
        pixels.transpose(1, 2, 0),
        tile=(64, 64),
        photometric="rgb",
        description=description,
        metadata=None,
    )
    out = restored(tmp_path / "in.svs")
    check_slide(out, tmp_path, 0.4990 / SCALE, repeated(pixels), openslide)


def check_slide(out, folder, mpp, expected, openslide):
    """Compare the exports of a slide with what was restored."""
    export(out, folder / "out.ome.tif", compression="zstd")
    with tifffile.TiffFile(folder / "out.ome.tif") as tiff:
        levels = [level.asarray().transpose(2, 0, 1) for level in tiff.series[0].levels]
        assert f'PhysicalSizeX="{mpp}"' in tiff.ome_metadata
    assert np.array_equal(levels[0], expected)
    export(out, folder / "out.tif", compression="jpeg", quality=95)
    with openslide.OpenSlide(folder / "out.tif") as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_count == len(levels)
        assert slide.dimensions == (expected.shape[2], expected.shape[1])
        for axis in "xy":
            assert float(slide.properties[f"openslide.mpp-{axis}"]) == pytest.approx(mpp, rel=1e-4)
        window = np.asarray(slide.read_region((8, 8), 0, (256, 256)))[..., :3].transpose(2, 0, 1)
        assert np.abs(window.astype(int) - expected[:, 8:264, 8:264]).mean() < 8


@pytest.mark.slow
def test_sixteen_bits_stay_sixteen_bits_in_ome_zarr(tmp_path, restored):
    pixels = np.random.default_rng(3).integers(90, 4095, (1, 120, 130), np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", pixels[0])
    check_zarr(restored(tmp_path / "in.tif"), pixels)


def check_zarr(out, pixels):
    """Check the image with the model of its format, and that its 4 x 4 means are the input."""
    import zarr
    from ome_zarr_models.v05 import Image

    group = zarr.open_group(out, mode="r")
    Image.from_zarr(group)
    found = group["0"][:]
    assert found.dtype == np.uint16
    channels, height, width = pixels.shape
    means = found.reshape(channels, height, SCALE, width, SCALE).mean(axis=(2, 4))
    assert np.abs(means - pixels).max() <= 0.5


# The same with real files.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sat/mosaic_cog1.tif", "sat/L7_ETMs.tif"])
def test_a_landsat_scene_becomes_a_strict_cog_with_its_bounds_and_nodata(tmp_path, restored, name):
    cogeo = pytest.importorskip("rio_cogeo")
    source = shared(name)
    export(restored(source), tmp_path / "out.tif", format="cog", compression="zstd")
    before, after = check_map(tmp_path / "out.tif", source)
    assert np.array_equal(after, repeated(before))
    valid, errors, remarks = cogeo.cog_validate(tmp_path / "out.tif", strict=True)
    assert valid, (errors, remarks)


@pytest.mark.slow
def test_a_fluorescence_image_becomes_uint16_ome_zarr(restored):
    source = shared("micro/1-162hrhoe2.tif")
    check_zarr(restored(source), tifffile.imread(source)[np.newaxis])


@pytest.mark.slow
def test_an_aperio_slide_becomes_ome_tiff_with_a_quarter_of_its_pixel_size(tmp_path, restored):
    openslide = pytest.importorskip("openslide")
    source = shared("micro/CMU-1-Small-Region.svs")
    with tifffile.TiffFile(source) as tiff:
        pixels = tiff.pages[0].asarray().transpose(2, 0, 1)
    check_slide(restored(source), tmp_path, 0.499 / SCALE, repeated(pixels), openslide)
