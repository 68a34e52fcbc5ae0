"""Images whose samples are not all valid, one for each way in which a format says it."""

import struct
import zlib

import imagecodecs
import numpy as np
import rasterio
import rasterio.shutil
import tifffile
from rasterio.enums import ColorInterp

SIDE = 80
RNG = np.random.default_rng(5)
VALID = np.ones((SIDE, SIDE), bool)
VALID[20:50, 30:41] = False
VALID[:, :7] = False


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


def mask_of_a_cog(path):
    plain = page_of_bits(path.with_name("plain.tif"))
    options = {"blocksize": 128, "overview_count": 2, "compress": "lzw"}
    rasterio.shutil.copy(plain, path, driver="COG", **options)
    return path


def mask_beside_jpeg(path):
    env = {"GDAL_TIFF_INTERNAL_MASK": True}
    options = {"compress": "jpeg", "photometric": "YCBCR", "tiled": True}
    sides = {"blockxsize": 32, "blockysize": 32}
    return write(path, samples(3), mask=VALID, env=env, **options, **sides)


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


def lerc_with_nan_per_band(path):
    masks = np.stack([VALID, np.roll(VALID, 9, axis=0), VALID])
    pixels = np.where(masks, samples(3, "float32"), np.nan).astype("float32")
    return write(
        path, pixels, nodata=np.nan, compress="LERC", tiled=True, blockxsize=32, blockysize=32
    )


def lerc_with_alpha(path):
    pixels = np.concatenate([samples(3), (VALID * 255).astype("uint8")[None]])
    return write(path, pixels, alpha=True, photometric="RGB", compress="LERC_ZSTD")


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
    mask_of_a_cog,
    mask_beside_jpeg,
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
    lerc_with_nan_per_band,
    lerc_with_alpha,
    sparse_with_nodata,
)


def png(path, rows):
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(rows)))
    return path


# Adam7: first row and column of each pass, and their steps (W3C PNG, section 8.2).
ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)),
    (1, 0, 2, 1),
)


def with_transparency(path, payload, bits, colour, rows, palette=b"", interlaced=False):
    """Write a PNG of stored rows (H, bytes) with a chunk tRNS."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    height = len(rows)
    samples_of = {0: 1, 2: 3, 3: 1}[colour]
    width = rows.shape[1] * 8 // (bits * samples_of)
    pixels = rows.reshape(height, width, -1)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    body = b"".join(
        b"\0" + row.tobytes() for y, x, down, across in passes for row in pixels[y::down, x::across]
    )
    parts = [b"\x89PNG\r\n\x1a\n"]
    parts.append(
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    )
    if palette:
        parts.append(chunk(b"PLTE", palette))
    parts += [chunk(b"tRNS", payload), chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")]
    path.write_bytes(b"".join(parts))
    return path
