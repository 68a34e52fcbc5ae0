"""How the pixels of a TIFF page lie in its file: samples, colours, compression, segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tifffile

    from storage.byte_source import ByteSource

# Photometric interpretations.
WHITE_IS_ZERO = 0
GREY = 1
RGB = 2
PALETTE = 3
MASK = 4
YCBCR = 6

UNCOMPRESSED = 1
_JPEG = 7
_DEFLATE = (8, 32946)
_JPEG_2000 = (33003, 33004, 33005, 34712)
COMPRESSIONS = {
    UNCOMPRESSED: "uncompressed",
    5: "LZW",
    _JPEG: "JPEG",
    8: "deflate",
    22610: "JPEG XR",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "zstd",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Compressions that can be decoded, by their number in the tag."""
_PLANES = 2


def is_jpeg(page: tifffile.TiffPage) -> bool:
    """Tell whether the segments of a page are JPEG streams."""
    return int(page.compression) == _JPEG


def is_jpeg_2000(page: tifffile.TiffPage) -> bool:
    """Tell whether the segments of a page are JPEG 2000 streams."""
    return int(page.compression) in _JPEG_2000


def is_deflate(page: tifffile.TiffPage) -> bool:
    """Tell whether the segments of a page are zlib streams."""
    return int(page.compression) in _DEFLATE


def is_mapped(source: ByteSource, page: tifffile.TiffPage) -> bool:
    """Tell whether the pixels lie in a local file as one plain array, to be mapped into memory."""
    if not source.local or not page.is_final:
        return False
    whole_bytes = 8 * page.dtype.itemsize
    return bool(int(page.bitspersample) == whole_bytes)


def page_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return (H, W), px."""
    return int(page.imagelength), int(page.imagewidth)


def stored_samples(page: tifffile.TiffPage) -> int:
    """Return the number of samples of a pixel."""
    return int(page.samplesperpixel)


def unwritten(page: tifffile.TiffPage) -> bool:
    """Tell whether the page has tiles or strips without bytes (a sparse file)."""
    return any(count == 0 for count in page.databytecounts)


def is_planar(page: tifffile.TiffPage) -> bool:
    """Tell whether every sample has segments of its own."""
    return int(page.planarconfig) == _PLANES


def samples_per_segment(page: tifffile.TiffPage) -> int:
    """Return the number of samples that a segment holds of a pixel."""
    return 1 if is_planar(page) else stored_samples(page)


def segment_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return (height, width) of a tile or strip, px; a last strip may be shorter."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    rows = min(int(page.rowsperstrip), int(page.imagelength))
    return rows, int(page.imagewidth)


def row_bytes(page: tifffile.TiffPage) -> int:
    """Return the bytes of an uncompressed row of a segment: bits are packed to whole bytes."""
    _, wide = segment_shape(page)
    bits = wide * samples_per_segment(page) * int(page.bitspersample)
    return -(-bits // 8)
