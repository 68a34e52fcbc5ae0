"""Readers: windows of PNG, JPEG and TIFF equal the decoded image, in the stored dtype."""

import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.box import Box
from storage.errors import DamagedError
from storage.readers.common import exif
from storage.readers.reader_registry import inspect, open_image
from tests.places import ROOT
from tests.png_bytes import png_chunk

ICC = bytes(range(256)) * 3


def picture(channels=3, height=150, width=210, dtype="uint8", seed=0):
    """A smooth picture with some noise, (C, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 23 + c) + np.cos(y / 17 - c) for c in range(channels)])
    values = (waves + 2) / 4 + rng.normal(0, 0.02, waves.shape)
    top = np.iinfo(dtype).max
    return (values.clip(0, 1) * top).astype(dtype)


def write_png(path, pixels, extra=b""):
    rows = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    data = bytes(imagecodecs.png_encode(rows))
    path.write_bytes(data[:33] + extra + data[33:])
    return path


def exif_block(value, order="<"):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)


def write_jpeg(path, pixels, segments=b""):
    rows = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    data = bytes(imagecodecs.jpeg8_encode(rows, level=95))
    path.write_bytes(data[:2] + segments + data[2:])
    return path


def segment(marker, payload):
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


TIFFS = {
    "tiles": {"tile": (64, 48)},
    "tiles_deflate": {"tile": (64, 64), "compression": "deflate", "predictor": True},
    "tiles_lzw_big_endian": {"tile": (32, 64), "compression": "lzw", "byteorder": ">"},
    "tiles_zstd_bigtiff": {"tile": (64, 64), "compression": "zstd", "bigtiff": True},
    "tiles_planar": {"tile": (64, 64), "planarconfig": "separate"},
    "tile_larger_than_image": {"tile": (512, 512), "compression": "deflate"},
    "strips_raw": {"rowsperstrip": 7},
    "strips_raw_big_endian": {"rowsperstrip": 7, "byteorder": ">"},
    "strips_deflate": {"rowsperstrip": 13, "compression": "deflate"},
    "strips_planar_lzw": {"rowsperstrip": 16, "compression": "lzw", "planarconfig": "separate"},
    "strips_planar_raw": {"planarconfig": "separate"},
    "one_strip_packbits": {"rowsperstrip": 150, "compression": "packbits"},
}
LAZY = {
    "tiles",
    "tiles_deflate",
    "tiles_lzw_big_endian",
    "tiles_zstd_bigtiff",
    "tiles_planar",
    "strips_raw",
}
LAZY |= {"strips_raw_big_endian", "strips_planar_raw", "tile_larger_than_image"}


def write_tiff(path, pixels, **options):
    if len(pixels) == 1:
        options.pop("planarconfig", None)
        rows = pixels[0]
        options["photometric"] = "minisblack"
    else:
        planar = options.get("planarconfig") == "separate"
        rows = pixels if planar else pixels.transpose(1, 2, 0)
        options["photometric"] = "rgb"
    tifffile.imwrite(path, rows, metadata=None, **options)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", TIFFS)
def test_tiff_windows_equal_the_image(tmp_path, layout, channels, dtype):
    pixels = picture(channels, dtype=dtype)
    path = write_tiff(
        tmp_path / "image.png", pixels, **TIFFS[layout]
    )  # the name lies; the content decides
    info = inspect(path)
    assert (info.format, info.shape, info.dtype, info.bits) == (
        "TIFF",
        pixels.shape,
        dtype,
        8 * pixels.itemsize,
    )
    assert info.lazy == (layout in LAZY), info.layout
    assert bool(info.why_staged) == bool(info.staging_bytes) == (not info.lazy)
    reader = open_image(path)
    for box in [
        info.box,
        Box(0, 0, 1, 1),
        Box(149, 209, 150, 210),
        Box(10, 20, 140, 77),
        Box(63, 47, 65, 49),
    ]:
        window = reader.read(box)
        assert np.array_equal(window, pixels[(slice(None), *box.slices())])
        assert window.dtype == dtype
        assert window.dtype.isnative
        assert window.flags.c_contiguous
        assert window.flags.writeable
    reader.close()


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    pixels = picture(dtype="uint16")
    opened = [
        open_image(write_tiff(folder / f"{name}.tif", pixels, **TIFFS[name])) for name in TIFFS
    ]
    opened.append(open_image(write_png(folder / "image.png", pixels)))
    yield pixels, opened
    for reader in opened:
        reader.close()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_window_of_any_reader_equals_the_image(readers, data):
    pixels, opened = readers
    y0 = data.draw(st.integers(0, 149))
    x0 = data.draw(st.integers(0, 209))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, 150)), data.draw(st.integers(x0 + 1, 210)))
    reader = data.draw(st.sampled_from(opened))
    assert np.array_equal(reader.read(box), pixels[(slice(None), *box.slices())])


def test_a_window_outside_the_image_is_refused(readers):
    _, opened = readers
    for reader in opened:
        for box in [Box(0, 0, 151, 10), Box(-1, 0, 5, 5), Box(4, 4, 4, 9)]:
            with pytest.raises(ValueError, match="is not a window of an image of 150 x 210 px"):
                reader.read(box)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_its_dtype_and_values(tmp_path, channels, dtype):
    pixels = picture(channels, dtype=dtype)
    profile = png_chunk(b"iCCP", b"name\0\0" + zlib.compress(ICC))
    path = write_png(tmp_path / "image.jpg", pixels, profile)
    info = inspect(path)
    assert (info.format, info.shape, info.dtype, info.lazy) == ("PNG", pixels.shape, dtype, False)
    assert info.icc == ICC
    reader = open_image(path)
    assert np.array_equal(reader.read(Box(5, 6, 70, 80)), pixels[:, 5:70, 6:80])
    reader.close()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_read_with_its_profile(tmp_path, channels):
    pixels = picture(channels)
    halves = [
        segment(0xE2, b"ICC_PROFILE\0" + bytes((n + 1, 2)) + ICC[n * 400 : (n + 1) * 400])
        for n in range(2)
    ]
    path = write_jpeg(tmp_path / "image.tif", pixels, halves[1] + halves[0])
    info = inspect(path)
    assert (info.format, info.shape, info.dtype, info.icc) == ("JPEG", pixels.shape, "uint8", ICC)
    reader = open_image(path)
    error = reader.read(info.box).astype(int) - pixels
    assert np.abs(error).mean() < 4
    reader.close()


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(tmp_path, kind, value):
    image_ops = pytest.importorskip("PIL.ImageOps")
    stored = picture(3, 40, 64)
    if kind == "PNG":
        path = write_png(tmp_path / "image", stored, png_chunk(b"eXIf", exif_block(value)))
    else:
        path = write_jpeg(
            tmp_path / "image", stored, segment(0xE1, b"Exif\0\0" + exif_block(value, ">"))
        )
    info = inspect(path)
    reader = open_image(path)
    with pytest.importorskip("PIL.Image").open(path) as image:
        upright = np.asarray(image_ops.exif_transpose(image)).transpose(2, 0, 1)
    assert (info.orientation, info.shape) == (value, upright.shape)
    assert np.abs(reader.read(info.box).astype(int) - upright).max() <= (0 if kind == "PNG" else 3)
    reader.close()


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\x7f",
        exif_block(9),
        exif_block(0),
        exif_block(6)[:20],
        b"x" * 64,
    ],
)
def test_broken_exif_means_upright(block):
    assert exif.orientation(block) == 1


def test_junk_between_jpeg_segments_is_skipped(tmp_path):
    pixels = picture(1)
    path = write_jpeg(
        tmp_path / "image.jpg", pixels, segment(0xFE, b"a comment") + b"junk \xff\x00 junk"
    )
    assert inspect(path).shape == pixels.shape


def test_a_small_window_of_a_large_tiled_tiff_needs_little_memory(tmp_path):
    path = write_tiff(
        tmp_path / "large.tif", picture(3, 1024, 1024), tile=(128, 128), compression="deflate"
    )
    reader = open_image(path)
    reader.read(Box(0, 0, 1, 1))
    tracemalloc.start()
    reader.read(Box(500, 500, 628, 628))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reader.close()
    assert peak < 1 << 20  # the window and four tiles are 240 KiB, the image 3 MiB


def test_strips_read_from_top_to_bottom_are_decoded_once(tmp_path, monkeypatch):
    path = write_tiff(
        tmp_path / "strips.tif", picture(3, 200, 100), rowsperstrip=90, compression="deflate"
    )
    reader = open_image(path)
    decoded = []
    page = reader._decoder._decoders[0]
    original = page._decode
    monkeypatch.setattr(
        page, "_decode", lambda index, place: decoded.append(index) or original(index, place)
    )
    for y in range(0, 200, 20):
        reader.read(Box(y, 0, y + 20, 100))
    reader.close()
    assert decoded == [0, 1, 2]


def test_reduced_and_mask_pages_are_not_mistaken_for_images(tmp_path):
    pixels = picture(3)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as tiff:
        for level, kind in [(0, 0), (1, 1), (2, 1)]:
            step = 2**level
            tiff.write(
                pixels.transpose(1, 2, 0)[::step, ::step],
                tile=(64, 64),
                subfiletype=kind,
                metadata=None,
            )
    reader = open_image(tmp_path / "pyramid.tif")
    assert np.array_equal(reader.read(reader.info.box), pixels)
    reader.close()


@pytest.mark.parametrize(("resolution", "expected"), [(20_000, 0.5), (118, None)])
def test_a_microscope_resolution_is_a_pixel_size_and_a_print_resolution_is_not(
    tmp_path, resolution, expected
):
    options = {"resolution": (resolution, resolution), "resolutionunit": "CENTIMETER"}
    path = write_tiff(tmp_path / "image.tif", picture(1), **options)
    assert inspect(path).pixel_size == (
        None if expected is None else pytest.approx((expected, expected))
    )


def test_tiff_profile_is_kept(tmp_path):
    assert inspect(write_tiff(tmp_path / "image.tif", picture(3), iccprofile=ICC)).icc == ICC


def test_a_damaged_tile_is_named(tmp_path):
    path = write_tiff(tmp_path / "image.tif", picture(3), tile=(64, 64), compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[5]
        count = tiff.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x5a" * count
    path.write_bytes(data)
    reader = open_image(path)
    assert reader.read(Box(0, 0, 64, 64)).any()
    with pytest.raises(DamagedError, match="tile 5 of 12 cannot be decoded"):
        reader.read(reader.info.box)
    reader.close()


def test_a_cut_jpeg_tile_is_an_error_and_not_grey_pixels(tmp_path):
    path = write_tiff(tmp_path / "image.tif", picture(3), tile=(64, 64), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        end = tiff.pages[0].dataoffsets[2] + tiff.pages[0].databytecounts[2]
    data = bytearray(path.read_bytes())
    data[end - 100 : end] = bytes(100)
    path.write_bytes(data)
    reader = open_image(path)
    with pytest.raises(DamagedError, match="tile 2 of 12 is not a whole JPEG stream"):
        reader.read(reader.info.box)
    reader.close()


def test_inspecting_a_png_or_jpeg_loads_neither_tifffile_nor_zarr(tmp_path):
    png = write_png(tmp_path / "a.png", picture())
    jpeg = write_jpeg(tmp_path / "a.jpg", picture())
    code = (
        "import sys; from storage.readers.reader_registry import inspect; "
        "inspect(sys.argv[1]); inspect(sys.argv[2]); "
        "print({'tifffile', 'zarr', 'torch', 'ray'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(png), str(jpeg)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("bands", [2, 4, 7])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 5}, {}])
def test_tiff_of_plain_bands_is_read_by_windows(
    tmp_path: Path, bands: int, planar: str, layout: dict[str, object]
) -> None:
    pixels = np.random.default_rng(bands).integers(0, 65536, (bands, 50, 70)).astype(np.uint16)
    path = tmp_path / "bands.tif"
    stored = pixels if planar == "separate" else pixels.transpose(1, 2, 0)
    compression = "zlib" if layout else None
    tifffile.imwrite(
        path,
        stored,
        photometric="minisblack",
        planarconfig=planar,
        compression=compression,
        **layout,
    )
    reader = open_image(path)
    assert reader.info.shape == pixels.shape
    np.testing.assert_array_equal(reader.read(Box(3, 11, 44, 70)), pixels[:, 3:44, 11:70])


def test_rgb_with_a_further_plain_band_is_read_whole(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 4)).astype(np.uint8)
    path = tmp_path / "rgbn.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(
        open_image(path).read(Box(0, 0, 30, 40)), pixels.transpose(2, 0, 1)
    )
