"""What a page of a TIFF must be to be read, checked before any pixel is decoded.

Its kind of samples and colours, the tables of its tiles or strips, and JPEG streams inside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from storage.errors import DamagedError, FormatError
from storage.image import check_size
from storage.readers.common.jpeg_markers import frame_size
from storage.readers.common.sample_conversion import DELIVERED
from storage.readers.tiff.page_layout import (
    COMPRESSIONS,
    GREY,
    PALETTE,
    RGB,
    UNCOMPRESSED,
    WHITE_IS_ZERO,
    YCBCR,
    is_jpeg,
    is_jpeg_2000,
    row_bytes,
    segment_shape,
    stored_samples,
)

if TYPE_CHECKING:
    import tifffile
    from numpy.typing import NDArray

_REFUSED_COLOURS = {
    4: "mask",
    5: "CMYK",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32844: "LogL",
    32845: "LogLuv",
}
# Photometric interpretation -> samples that are colours, and their name.
_COLOURS = {
    WHITE_IS_ZERO: (1, "grey"),
    GREY: (1, "grey"),
    RGB: (3, "RGB"),
    PALETTE: (1, "palette"),
    YCBCR: (3, "YCbCr"),
}
_SAMPLE_KINDS = {
    2: "signed",
    3: "float",
    5: "complex",
    6: "complex",
}
_SUPPORTED = (
    "supported: 1 to 16 bit unsigned, 8 or 16 bit signed and 16 or 32 bit float samples, "
    "grey, RGB or bands"
)
# What the pages of one image must have in common.
_COMMON = ("imagelength", "imagewidth", "samplesperpixel", "dtype", "photometric")
# A decoder may be given a JPEG stream of so many times the pixels of its place: small tiles are
# sometimes padded.
_LARGEST_JPEG = 4
_SMALL_TILE = 1 << 16


def refuse_other_readers(path: str, file: tifffile.TiffFile) -> None:
    """Raise FormatError for slide formats whose pages do not make an image by themselves."""
    slides = {
        "Leica SCN": file.is_scn,
        "Ventana BIF": file.is_bif,
        "Philips": file.is_philips,
    }
    for name, is_one in slides.items():
        if is_one:
            raise FormatError(
                f"{path}: a {name} slide, which is read through OpenSlide; "
                "install it: pip install 'gigarestore[wsi]'"
            )


def check_pages(
    path: str,
    pages: tuple[tifffile.TiffPage, ...],
    file_size: int,
    max_pixels: int,
) -> None:
    """Raise FormatError unless every page can be read, and all of them have one shape and type.

    file_size: bytes.
    """
    for page in pages:
        refuse_unsupported(path, page)
        _refuse_different(path, pages[0], page)
        check_size(path, int(page.imagelength), int(page.imagewidth), max_pixels)
        check_tables(path, page, file_size)
        # Builds the decoder from the tags: what does not fit together shows here.
        page.init_decode()


def check_mask(path: str, mask: tifffile.TiffPage, file_size: int) -> None:
    """Raise FormatError unless the page of a mask can be read. file_size: bytes."""
    bits = int(mask.bitspersample)
    known = int(mask.compression) in COMPRESSIONS
    if not known or stored_samples(mask) != 1 or bits not in (1, 8) or mask.dtype is None:
        raise FormatError(
            f"{path}: its mask page has {stored_samples(mask)} samples of {bits} bits, "
            f"compression {int(mask.compression)}; supported: one of 1 or 8 bits; "
            "write it again: gdal_translate -mask mask in.tif out.tif"
        )
    check_tables(path, mask, file_size)
    mask.init_decode()


def _refuse_different(
    path: str,
    first: tifffile.TiffPage,
    page: tifffile.TiffPage,
) -> None:
    for name in _COMMON:
        expected = getattr(first, name)
        value = getattr(page, name)
        if value != expected:
            raise FormatError(
                f"{path}: its channels differ in {name} ({expected} and {value}); "
                "choose them one by one"
            )


def refuse_unsupported(path: str, page: tifffile.TiffPage) -> None:
    """Raise FormatError, naming what was found, for the first property that cannot be read."""
    for problem in _problems(page):
        raise FormatError(f"{path}: {problem}")


def _problems(page: tifffile.TiffPage) -> Iterator[str]:
    """Yield what is wrong with a page, each with its remedy, the most basic first.

    Later ones rely on the earlier ones being right.
    """
    segment = segment_shape(page)
    if min(int(page.imagelength), int(page.imagewidth), *segment) < 1:
        yield (
            f"the TIFF says {page.imagelength} x {page.imagewidth} px in segments of {segment} px "
            "(H x W); both need at least 1 x 1; get it again from its source"
        )
    if int(page.compression) not in COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        yield f"found {name} compression, which is not supported; convert it: tiffcp -c zip in out"

    photometric = int(page.photometric or 0)
    bare_ycbcr = photometric == YCBCR and not is_jpeg(page) and not is_jpeg_2000(page)
    if photometric in _REFUSED_COLOURS or bare_ycbcr:
        name = _REFUSED_COLOURS.get(photometric, "YCbCr without JPEG")
        yield (
            f"found {name} pixels; {_SUPPORTED}; convert it: magick in.tif -type TrueColor o.tif"
        )
    if page.dtype is None or (str(page.dtype) not in DELIVERED and page.dtype != bool):
        kind = _SAMPLE_KINDS.get(int(page.sampleformat or 1), "unsigned")
        yield (
            f"found {page.bitspersample} bit {kind} samples; {_SUPPORTED}; "
            "convert it: vips cast in.tif out.tif ushort"
        )
    if int(page.planarconfig) not in (1, 2):
        yield (
            f"planar configuration {page.planarconfig} is unknown; "
            "the TIFF is damaged, get it again"
        )
    if int(page.imagedepth) != 1:
        yield f"found a volume of depth {page.imagedepth}; {_SUPPORTED}; extract one slice"
    yield from _colour_problems(page, photometric)


def _colour_problems(page: tifffile.TiffPage, photometric: int) -> Iterator[str]:
    """Hold the number of samples to the colours that the file claims.

    Further samples are bands of their own, except inside JPEG's YCbCr.
    """
    samples = stored_samples(page)
    colours, name = _COLOURS.get(photometric, (None, f"photometric {photometric}"))
    further_allowed = not is_jpeg(page) or photometric != YCBCR
    fits = colours is not None and (samples == colours or (samples > colours and further_allowed))
    if not fits:
        yield (
            f"found {samples} bands marked as {name}; {_SUPPORTED}; "
            "choose the bands and mark them: "
            "gdal_translate -b 1 -b 2 -b 3 -colorinterp red,green,blue in.tif out.tif"
        )


def check_tables(
    path: str,
    page: tifffile.TiffPage,
    size: int,
) -> None:
    """Hold the offsets and byte counts of all tiles or strips to the file.

    Nothing may be missing, nothing past its end. size: of the file, bytes.
    """
    kind = "tile" if page.is_tiled else "strip"
    expected = int(np.prod(page.chunked))
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    if len(offsets) != expected or len(counts) != expected:
        raise FormatError(
            f"{path}: {page.imagelength} x {page.imagewidth} px need {expected} {kind}s, the file "
            f"lists {len(offsets)} offsets and {len(counts)} byte counts; "
            "the TIFF is damaged, get it again"
        )

    empty = (counts <= 0) | (offsets <= 0)
    # GDAL and scanners write neither offset nor bytes for tiles in which nothing was measured.
    half_given = (counts != 0) | (offsets != 0)
    missing = int((empty & half_given).sum())
    if missing:
        raise FormatError(
            f"{path}: {missing} of {expected} {kind}s hold no data, and are not marked as absent "
            "(offset and byte count 0); the TIFF is damaged, get it again"
        )

    ends = offsets + counts
    cut = np.flatnonzero(ends > size)
    if len(cut):
        raise FormatError(
            f"{path}: the TIFF is truncated: {kind} {cut[0]} ends at byte {ends[cut[0]]}, the file "
            f"has {size} ({len(cut)} {kind}s are cut); get it again from its source"
        )

    if int(page.compression) == UNCOMPRESSED:
        short = np.flatnonzero((counts < _raw_bytes(page, expected)) & ~empty)
        if len(short):
            raise FormatError(
                f"{path}: {kind} {short[0]} is shorter than its pixels; "
                "the TIFF is damaged, get it again"
            )


def _raw_bytes(page: tifffile.TiffPage, segments: int) -> NDArray[np.int64]:
    """Return the bytes that every uncompressed segment needs at least.

    Rows are packed bit by bit to whole bytes.
    """
    tall, _ = segment_shape(page)
    rows = np.full(segments, tall, np.int64)
    if not page.is_tiled:
        height = int(page.imagelength)
        per_plane = -(-height // tall)
        last = height - (per_plane - 1) * tall
        rows[per_plane - 1 :: per_plane] = last
    return rows * row_bytes(page)


def check_jpeg_segment(
    path: str,
    place: str,
    data: bytes,
    shape: tuple[int, int],
) -> None:
    """Check a JPEG segment before it is decoded: whole, and no larger than its place.

    Decoders fill what is missing with grey, silently, and allocate whatever its own header
    declares. Raises DamagedError.
    """
    near_the_end = max(0, len(data) - 64)
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9", near_the_end) < 0:
        raise DamagedError(
            f"{path}: {place} is not a whole JPEG stream: the file is damaged; get it again"
        )
    declared = frame_size(data)
    if declared is None:
        return
    declared_pixels = declared[0] * declared[1]
    expected_pixels = max(shape[0] * shape[1], _SMALL_TILE)
    if declared_pixels > _LARGEST_JPEG * expected_pixels:
        raise DamagedError(
            f"{path}: {place} declares {declared} px where {shape} belong; the file is damaged"
        )
