"""How the tiles or strips of a TIFF page were coded with loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from storage.coding import Coding
from storage.readers.common import exif
from storage.readers.common.jpeg2000_marks import lossy_wavelet
from storage.readers.common.jpeg_quality import read_tables
from storage.readers.tiff.page_layout import (
    COMPRESSIONS,
    is_jpeg,
    is_jpeg_2000,
    segment_shape,
)

if TYPE_CHECKING:
    import tifffile

    from storage.byte_source import ByteSource

_WEBP = 50001
# JPEG XR and JPEG XL.
_MAYBE = (22610, 34934, 50002, 52546)
# Of a segment's beginning, where its own header lies, bytes.
_HEAD_BYTES = 4096
# Within which the kind of a WebP stream is named.
_WEBP_HEAD_BYTES = 64


def page_coding(
    source: ByteSource,
    page: tifffile.TiffPage,
    orientation: int,
) -> Coding | None:
    """Return how a page was coded, for an image that is turned upright; None where it is exact."""
    coding = _coding(page, _head(source, page))
    if coding is None or coding.blocks is None:
        return coding
    if page.jpegheader is None:  # else the segments are the parts of one stream
        coding = replace(coding, segments=segment_shape(page))
    return coding.turned(
        swapped=exif.swaps_sides(orientation),
        from_end=(orientation in exif.UPSIDE_DOWN, orientation in exif.MIRRORED),
    )


def _coding(page: tifffile.TiffPage, head: bytes) -> Coding | None:
    """Return how segments were coded, by the head of the first one."""
    number = int(page.compression)
    name = COMPRESSIONS[number]
    if is_jpeg(page):
        parts = (page.jpegtables, page.jpegheader, head)
        return read_tables(*(part for part in parts if part)).coding()
    if is_jpeg_2000(page):
        return lossy_wavelet(head)
    if number == _WEBP:
        exact = b"VP8L" in head[:_WEBP_HEAD_BYTES]
        return None if exact else Coding(name=name, said="lossy")
    if number in _MAYBE:
        return Coding(name=name, said="with or without loss")
    return None


def _head(source: ByteSource, page: tifffile.TiffPage) -> bytes:
    """Return the beginning of the first segment that has bytes; empty where none has."""
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count:
            return source.read(offset, min(count, _HEAD_BYTES))
    return b""
