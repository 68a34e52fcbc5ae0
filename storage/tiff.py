"""TIFF: what a file must be to be read, checked on its header and tables before any pixel is decoded."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import numpy as np
import tifffile

from storage.errors import DamagedError, FormatError, one_line
from storage.image import ImageInfo

# tifffile reports every oddity of a file to its logger, and Python prints such lines where nobody configured logging;
# what matters becomes a FormatError here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_GREY, _RGB, _YCBCR = 1, 2, 6
_PHOTOMETRIC = {0: "min-is-white", 3: "palette", 4: "mask", 5: "CMYK", 8: "CIELAB", 32844: "LogL", 32845: "LogLuv"}
_NONE, _JPEG = 1, 7
_COMPRESSIONS = {
    _NONE: "uncompressed",
    5: "LZW",
    _JPEG: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34925: "LZMA",
    50000: "zstd",
    50001: "WebP",
}
# Above this side a tile is mostly pixels that a 256 px window does not need: staging once is cheaper than decoding
# the tile for every window (storage.md 1.2).
_LAZY_TILE = 1024
_REDUCED, _MASK = 1, 4
_STAGE_ROWS = 512
# Coarser resolutions (20 um is 1270 dpi) are print sizes of photographs and say nothing about the object, um.
_LARGEST_PIXEL = 20.0
_SUPPORTED = "supported: 8 or 16 bit unsigned grey, RGB or plain bands"


def inspect_tiff(path: str) -> ImageInfo:
    """Describe a TIFF file from its header and tables.

    Raises FormatError for damaged files and unsupported kinds of TIFF.
    """
    with opened(path) as (_, info):
        return info


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[tifffile.TiffPage, ImageInfo]]:
    """Open a TIFF file, check it, and yield the page that holds the image with its description."""
    # is_ome=False: the OME reader would open other files that the metadata names.
    try:
        file = tifffile.TiffFile(path, is_ome=False, is_mmstack=False)
    except Exception as error:  # hostile bytes reach every corner of the parser; all of it means the same
        raise FormatError(f"{path}: the TIFF structure is damaged: {one_line(error)}; get it again") from error
    with file:
        try:
            if not len(file.pages):
                raise FormatError(f"{path}: the TIFF holds no image, or is cut before its first table; get it again")
            info = _describe(path, file)
            page = file.pages.first
        except FormatError:
            raise
        except Exception as error:
            raise FormatError(f"{path}: the TIFF structure is damaged: {one_line(error)}; get it again") from error
        yield page, info


def is_jpeg(page: tifffile.TiffPage) -> bool:
    """Tell whether the segments of a page are JPEG streams."""
    return int(page.compression) == _JPEG


def segment_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return (height, width) of a tile or strip, px; a last strip may be shorter."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def _describe(path: str, file: tifffile.TiffFile) -> ImageInfo:
    page = file.pages.first
    _refuse_other_images(path, file)
    _refuse_unsupported(path, page)
    _check_tables(path, page, os.path.getsize(path))
    page.init_decode()  # builds the decoder from the tags: what does not fit together shows here
    height, width = int(page.imagelength), int(page.imagewidth)
    tall, wide = segment_shape(page)
    itemsize = int(page.bitspersample) // 8
    lazy = bool(page.is_memmappable) or (page.is_tiled and max(tall, wide) <= _LAZY_TILE)
    kind = "tiles" if page.is_tiled else "strips"
    layout = f"{kind} {tall}x{wide}, {_COMPRESSIONS[int(page.compression)]}"
    # A band of chunks, and the segments that cover it (kept for the next band).
    band = (_STAGE_ROWS + 2 * tall) * max(width, wide) * int(page.samplesperpixel) * itemsize
    return ImageInfo(
        path=path,
        format="TIFF",
        height=height,
        width=width,
        channels=int(page.samplesperpixel),
        dtype="uint8" if itemsize == 1 else "uint16",
        bits=8 * itemsize,
        lazy=lazy,
        why_staged="" if lazy else f"windows of {layout} are slow to read",
        layout=layout,
        staging_bytes=0 if lazy else band,
        icc=bytes(page.iccprofile) if page.iccprofile else None,
        pixel_size=_pixel_size(page),
    )


def _refuse_other_images(path: str, file: tifffile.TiffFile) -> None:
    """Accept one full image with its reduced copies and masks; a slide file may add label and overview images."""
    if file.is_svs or file.is_ndpi:
        return
    # By index up to the counted length: the count stops at a loop of pages, plain iteration would not.
    pages = (file.pages[number] for number in range(len(file.pages)))
    full = [page for page in pages if not int(page.subfiletype or 0) & (_REDUCED | _MASK)]
    if len(full) > 1:
        sizes = ", ".join(f"{int(p.imagelength)}x{int(p.imagewidth)}" for p in full[:3])
        sizes += ", ..." if len(full) > 3 else ""
        raise FormatError(
            f"{path}: holds {len(full)} images ({sizes} H x W) and it is not said which one; supported: one image with "
            "its pyramid; split it: tiffsplit, or magick 'in.tif[0]' out.tif"
        )


def _refuse_unsupported(path: str, page: tifffile.TiffPage) -> None:
    samples, bits, photometric = int(page.samplesperpixel), page.bitspersample, int(page.photometric or 0)
    if min(int(page.imagelength), int(page.imagewidth), *segment_shape(page)) < 1:
        raise FormatError(
            f"{path}: the TIFF says {page.imagelength} x {page.imagewidth} px in segments of "
            f"{segment_shape(page)} px (H x W); both need at least 1 x 1; get it again from its source"
        )
    if int(page.compression) not in _COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        raise FormatError(f"{path}: found {name} compression, which is not supported; convert it: tiffcp -c zip in out")
    if photometric in _PHOTOMETRIC or (photometric == _YCBCR and not is_jpeg(page)):
        name = _PHOTOMETRIC.get(photometric, "YCbCr without JPEG")
        raise FormatError(f"{path}: found {name} pixels; {_SUPPORTED}; convert it: magick in.tif -type TrueColor o.tif")
    if page.sampleformat not in (None, 1) or bits not in (8, 16):
        kind = {2: "signed", 3: "float", 5: "complex", 6: "complex"}.get(int(page.sampleformat or 1), "unsigned")
        raise FormatError(
            f"{path}: found {bits} bit {kind} samples; {_SUPPORTED}; convert it: vips cast in.tif out.tif ushort"
        )
    if int(page.planarconfig) not in (1, 2):
        raise FormatError(
            f"{path}: planar configuration {page.planarconfig} is unknown; the TIFF is damaged, get it again"
        )
    if int(page.imagedepth) != 1:
        raise FormatError(f"{path}: found a volume of depth {page.imagedepth}; {_SUPPORTED}; extract one slice")
    if any(int(extra) in (1, 2) for extra in page.extrasamples):
        raise FormatError(f"{path}: found an alpha channel; {_SUPPORTED}; remove it: magick in.tif -alpha off out.tif")
    bands = samples >= {_GREY: 2, _RGB: 3}.get(photometric, samples + 1) and not is_jpeg(page)
    if not bands and (samples, photometric) not in {(1, _GREY), (3, _RGB), (3, _YCBCR)}:
        colour = {_GREY: "grey", _RGB: "RGB", _YCBCR: "YCbCr"}.get(photometric, f"photometric {photometric}")
        raise FormatError(
            f"{path}: found {samples} bands marked as {colour}; {_SUPPORTED}; choose the bands and mark them: "
            "gdal_translate -b 1 -b 2 -b 3 -colorinterp red,green,blue in.tif out.tif"
        )
    turned = int(page.tags.valueof(274, 1) or 1)
    if turned != 1:
        raise FormatError(
            f"{path}: TIFF orientation {turned} is not supported; turn it: magick in -auto-orient out.tif"
        )


def _check_tables(path: str, page: tifffile.TiffPage, size: int) -> None:
    """Hold the offsets and byte counts of all tiles or strips to the file: nothing missing, nothing past its end."""
    kind = "tile" if page.is_tiled else "strip"
    expected = int(np.prod(page.chunked))
    offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    if len(offsets) != expected or len(counts) != expected:
        raise FormatError(
            f"{path}: {page.imagelength} x {page.imagewidth} px need {expected} {kind}s, the file lists "
            f"{len(offsets)} offsets and {len(counts)} byte counts; the TIFF is damaged, get it again"
        )
    sparse = int(((counts <= 0) | (offsets <= 0)).sum())
    if sparse:
        raise FormatError(
            f"{path}: {sparse} of {expected} {kind}s hold no data; supported: complete files; "
            "fill them: gdal_translate -co SPARSE_OK=FALSE in.tif out.tif"
        )
    outside = np.flatnonzero(offsets + counts > size)
    if len(outside):
        raise FormatError(
            f"{path}: the TIFF is truncated: {kind} {outside[0]} ends at byte {(offsets + counts)[outside[0]]}, the "
            f"file has {size} ({len(outside)} {kind}s are cut); get it again from its source"
        )
    if int(page.compression) == _NONE:
        short = np.flatnonzero(counts < _raw_bytes(page, expected))
        if len(short):
            raise FormatError(
                f"{path}: {kind} {short[0]} is shorter than its pixels; the TIFF is damaged, get it again"
            )


def _raw_bytes(page: tifffile.TiffPage, segments: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the bytes that every uncompressed segment needs at least."""
    tall, wide = segment_shape(page)
    samples = 1 if int(page.planarconfig) == 2 else int(page.samplesperpixel)
    rows = np.full(segments, tall, np.int64)
    if not page.is_tiled:
        per_plane = -(-int(page.imagelength) // tall)
        rows[per_plane - 1 :: per_plane] = int(page.imagelength) - (per_plane - 1) * tall
    return rows * (wide * samples * (int(page.bitspersample) // 8))


def _pixel_size(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return (y, x) in micrometres where the resolution is in centimetres and as fine as a microscope's."""
    if page.tags.valueof(296) != 3:
        return None
    sizes = []
    for code in (283, 282):
        numerator, denominator = page.tags.valueof(code) or (0, 1)
        if numerator <= 0 or denominator <= 0:
            return None
        sizes.append(1e4 * denominator / numerator)
    return (sizes[0], sizes[1]) if max(sizes) <= _LARGEST_PIXEL else None


def require_whole_jpeg(path: str, place: str, data: bytes) -> None:
    """Check that a JPEG segment starts and ends as one: decoders fill what is missing with grey, silently."""
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9", max(0, len(data) - 64)) < 0:
        raise DamagedError(f"{path}: {place} is not a whole JPEG stream: the file is damaged; get it again")
