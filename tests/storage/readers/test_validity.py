"""Which samples are valid is read from wherever a format keeps it, as rasterio reads it."""

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.enums import ColorInterp, MaskFlags

from storage.box import Box
from storage.errors import FormatError
from storage.image import Selection
from storage.readers.cache import CachedReader
from storage.readers.reader_registry import inspect, open_image
from storage.readers.staging import stage

SIDE = 80
RNG = np.random.default_rng(5)
VALID = np.ones((SIDE, SIDE), bool)
VALID[20:50, 30:41] = False
VALID[:, :7] = False
BOXES = (Box(0, 0, SIDE, SIDE), Box(11, 3, 60, 79), Box(25, 32, 40, 40))

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def samples(bands, dtype="uint8"):
    """Return (bands, H, W) samples in the middle of a dtype's range."""
    return RNG.integers(40, 200, (bands, SIDE, SIDE)).astype(dtype)


def write(path, pixels, *, mask=None, alpha=None, **options):
    """Write a TIFF by GDAL."""
    env = options.pop("env", {})
    count, height, width = pixels.shape
    with (
        rasterio.Env(**env),
        rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype,
            **options,
        ) as dataset,
    ):  # fmt: skip
        if alpha is not None:
            dataset.colorinterp = [*dataset.colorinterp[:-1], ColorInterp.alpha]
        dataset.write(pixels)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def page_of_bits(path):
    env = {"GDAL_TIFF_INTERNAL_MASK": True}
    return write(path, samples(3, "uint16"), mask=VALID, env=env, compress="deflate")


def two_pages(path, rows, second, **options):
    """Write an image and a second page, which becomes its mask: tifffile writes masks of bits."""
    with tifffile.TiffWriter(path) as tiff:
        photometric = "rgb" if rows.ndim == 3 else "minisblack"
        tiff.write(rows, photometric=photometric, metadata=None, subfiletype=0, **options)
        tiff.write(second, photometric="minisblack", metadata=None, subfiletype=1, **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[1].tags[254].overwrite(4)
        tiff.pages[1].tags[262].overwrite(4)
    return path


def page_of_bytes(path):
    rows = samples(3).transpose(1, 2, 0)
    return two_pages(path, rows, VALID.astype("uint8") * 255, tile=(32, 32), compression="zlib")


def page_with_overviews(path):
    env = {"GDAL_TIFF_INTERNAL_MASK": True, "GDAL_TIFF_INTERNAL_MASK_TO_8BIT": False}
    write(path, samples(1), mask=VALID, env=env, tiled=True, blockxsize=16, blockysize=16)
    with rasterio.Env(**env), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
    return path


def page_of_photometric_alone(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(samples(1)[0], photometric="minisblack", metadata=None)
        tiff.write(VALID, photometric="mask", metadata=None)
    return path


def file_beside(path):
    return write(path, samples(3, "int16"), mask=VALID, env={"GDAL_TIFF_INTERNAL_MASK": False})


def alpha_of_16_bits(path):
    alpha = (VALID * 65535).astype("uint16")[None]
    pixels = np.concatenate([samples(3, "uint16"), alpha])
    return write(path, pixels, alpha=True, photometric="RGB")


def associated_alpha(path):
    alpha = (VALID * 255).astype("uint8")
    rows = np.dstack([*(samples(3) * VALID), alpha])
    tifffile.imwrite(path, rows, photometric="rgb", extrasamples=["assocalpha"])
    return path


def alpha_in_planes(path):
    alpha = (VALID * 255).astype("uint8")[None]
    pixels = np.concatenate([samples(1), alpha])
    return write(path, pixels, alpha=True, interleave="band", compress="lzw")


def whole_nodata(path):
    pixels = np.where(VALID, samples(2, "int16"), -9999).astype("int16")
    return write(path, pixels, nodata=-9999)


def nodata_that_shifts(path):
    pixels = samples(2, "uint16")
    pixels[0][~VALID] = 0
    pixels[1][~np.roll(VALID, 9, axis=0)] = 0
    return write(path, pixels, nodata=0)


def nodata_of_float64(value):
    def made(path):
        pixels = np.where(VALID, samples(1, "float32"), np.float32(value))
        return write(path, pixels.astype("float32"), nodata=value)

    made.__name__ = f"nodata_{value:g}"
    return made


def sparse_with_nodata(path):
    pixels = np.full((1, SIDE, SIDE), 9, "uint8")
    pixels[0, :32, 32:64] = samples(1)[0, :32, 32:64]
    return write(
        path, pixels, nodata=9, tiled=True, blockxsize=32, blockysize=32, sparse_ok=True
    )  # fmt: skip


BY_GDAL = (
    page_of_bits,
    page_of_bytes,
    page_with_overviews,
    page_of_photometric_alone,
    file_beside,
    alpha_of_16_bits,
    associated_alpha,
    alpha_in_planes,
    whole_nodata,
    nodata_that_shifts,
    nodata_of_float64(1e20),
    nodata_of_float64(0.1),
    nodata_of_float64(-3.4028234663852886e38),
    nodata_of_float64(float("nan")),
    sparse_with_nodata,
)


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


def png(path, rows):
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(rows)))
    return path


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


def with_transparency(path, payload, bits, colour, rows, palette=b""):
    """Write a PNG of stored rows (H, bytes) with a chunk tRNS."""
    import struct
    import zlib

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    height = len(rows)
    samples_of = {0: 1, 2: 3, 3: 1}[colour]
    width = rows.shape[1] * 8 // (bits * samples_of)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [b"\x89PNG\r\n\x1a\n"]
    parts.append(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)))
    if palette:
        parts.append(chunk(b"PLTE", palette))
    parts += [chunk(b"tRNS", payload), chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")]
    path.write_bytes(b"".join(parts))
    return path


def test_a_transparent_colour_of_a_png_is_no_measurement(tmp_path):
    rows = samples(3).transpose(1, 2, 0)
    rows[~VALID] = (1, 2, 3)
    rows[0, 40] = (1, 2, 4)  # another colour
    payload = bytes([0, 1, 0, 2, 0, 3])
    path = with_transparency(tmp_path / "in.png", payload, 8, 2, rows.reshape(SIDE, -1))
    reader = open_image(path)
    assert reader.info.valid_by == "transparent colour"
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
