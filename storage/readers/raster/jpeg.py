"""JPEG: the header by hand, and the proof that the file reaches its end.

Source: ITU-T T.81 annex B (markers), EXIF 2.32 (APP1), ICC.1 annex B.4 (APP2).
A wrong bit inside the compressed data cannot be detected in general: JPEG carries no checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from storage.byte_source import Data
from storage.errors import FormatError
from storage.readers.common import exif
from storage.readers.common.jpeg_markers import (
    APP1,
    APP2,
    BARE,
    END_OF_IMAGE,
    FRAMES,
    OTHER_FRAMES,
    PROGRESSIVE,
    START_OF_SCAN,
)
from storage.readers.common.jpeg_quality import JpegTables, read_tables

SIGNATURE = b"\xff\xd8\xff"
_SUPPORTED = "supported: 8 bit grey or colour (YCbCr, RGB), baseline or progressive"

_EXIF = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
_Frame = tuple[int, int, int, int]
"""Bits per sample, height, width, number of components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegHeader:
    """What the markers before the first scan say."""

    height: int
    width: int
    channels: int
    icc: bytes | None
    orientation: int
    tables: JpegTables
    by_rows: bool
    """Whether it can be decoded from top to bottom: all colours in one scan, never refined."""


def read_header(path: str, data: Data) -> JpegHeader:
    """Read the markers up to the first scan and check that an end-of-image marker follows it.

    Raises FormatError for a truncated file and for kinds of JPEG that are not supported.
    """
    frame: _Frame | None = None
    orientation = 1
    profile_parts = {}
    by_rows = False
    tables = JpegTables(luminance=None)
    progressive = False
    for marker, start, length in _segments(path, data):
        end = start + length
        if marker in FRAMES and length >= 6:
            frame = struct.unpack_from(">BHHB", data, start)
            progressive = marker == PROGRESSIVE
        elif marker in OTHER_FRAMES:
            raise FormatError(
                f"{path}: found a lossless, hierarchical or arithmetic JPEG; {_SUPPORTED}; "
                "save it again"
            )
        elif marker == APP1 and data[start : start + len(_EXIF)] == _EXIF:
            orientation = exif.orientation(data[start + len(_EXIF) : end])
        elif marker == APP2 and data[start : start + len(_ICC)] == _ICC and length > 14:
            number = data[start + len(_ICC)]
            profile_parts[number] = data[start + len(_ICC) + 2 : end]
        elif marker == START_OF_SCAN:
            _require_end(path, data, end)
            tables = read_tables(data[:start])
            colours_of_scan = data[start]
            by_rows = frame is not None and not progressive and colours_of_scan == frame[3]
            break
    if frame is None:
        raise FormatError(
            f"{path}: the JPEG has no frame header before its pixels; get it again from its source"
        )
    _refuse_unsupported(path, *frame)
    _, height, width, components = frame
    profile = b"".join(profile_parts[number] for number in sorted(profile_parts))
    return JpegHeader(
        height=height,
        width=width,
        channels=components,
        icc=profile or None,
        orientation=orientation,
        tables=tables,
        by_rows=by_rows,
    )


def _segments(path: str, data: Data) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start of payload, length) to the end of image or the end of the file.

    Junk between segments is skipped, as decoders do.
    """
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in BARE:
            position += 2
        elif marker == END_OF_IMAGE:
            return
        else:
            # The size counts its own two bytes.
            (size,) = struct.unpack_from(">H", data, position + 2)
            end = position + 2 + size
            if size < 2 or end > len(data):
                break
            yield marker, position + 4, size - 2
            position = end
    raise FormatError(
        f"{path}: the JPEG is truncated in its header ({len(data)} bytes); "
        "get it again from its source"
    )


def _require_end(
    path: str,
    data: Data,
    start: int,
) -> None:
    """Check for an end-of-image marker after the first scan began.

    Inside a scan FF D9 cannot occur otherwise.
    """
    marker = bytes((0xFF, END_OF_IMAGE))
    if data.rfind(marker, start) < 0:
        raise FormatError(
            f"{path}: the JPEG is truncated: {len(data)} bytes and no end-of-image marker; "
            "get it again from its source"
        )


def _refuse_unsupported(
    path: str,
    bits: int,
    height: int,
    width: int,
    components: int,
) -> None:
    if height == 0 or width == 0:
        raise FormatError(
            f"{path}: the JPEG header says {height} x {width} px (H x W); "
            "an image needs at least 1 x 1"
        )
    if bits != 8:
        raise FormatError(
            f"{path}: found a JPEG with {bits} bit samples; {_SUPPORTED}; "
            "convert it to a 16 bit PNG"
        )
    if components == 4:
        raise FormatError(
            f"{path}: found a CMYK JPEG; {_SUPPORTED}; "
            "convert it: magick in.jpg -colorspace sRGB o.jpg"
        )
    if components not in (1, 3):
        raise FormatError(
            f"{path}: found a JPEG with {components} components; {_SUPPORTED}; convert it to PNG"
        )
