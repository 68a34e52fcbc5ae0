"""PNG: the header by hand, and a walk over every chunk before a decoder sees the file.

Source: W3C PNG specification (third edition), sections 5 (structure), 11.2 (IHDR, PLTE, IDAT, IEND)
and 11.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.byte_source import Data
from storage.errors import FormatError
from storage.readers.common import exif

if TYPE_CHECKING:
    from storage.image import Opacity

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PALETTE = 3
_COLOURS = {
    0: "grey",
    2: "RGB",
    3: "palette",
    4: "grey with alpha",
    6: "RGB with alpha",
}
_SAMPLES = {
    0: 1,
    2: 3,
    3: 1,
    4: 2,
    6: 4,
}
_BITS = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}
# A colour profile is a few KiB; the limit stops a zlib bomb hidden in one.
_MAX_ICC = 16 << 20
# Compressed pixels that are taken from a file at a time, bytes.
_STRETCH = 1 << 18
# Length and name before the payload of a chunk, and the checksum after it, bytes.
_BEFORE = 8
_AFTER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PngHeader:
    """What IHDR and the chunks around the pixels say."""

    height: int
    width: int
    samples: int
    """Stored per pixel: 1 grey or palette number, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""
    bits: int
    interlaced: bool
    palette: bytes | None
    """Red, green, blue of every entry; None for other kinds."""
    transparency: bytes | None
    """The chunk tRNS: a transparent colour, or the alpha of the first palette entries."""
    icc: bytes | None
    orientation: int


def read_header(path: str, data: Data) -> PngHeader:
    """Read the header and check that the chunks lead to IEND, without reading the pixels.

    Raises FormatError for a truncated file and for kinds of PNG that are not supported.
    """
    chunks: dict[bytes, tuple[int, int]] = {}
    for name, start, length in _walk(path, data):
        chunks.setdefault(name, (start, length))

    start, length = chunks[b"IHDR"]
    if length != 13 or not _crc_is_right(data, start, length):
        raise FormatError(f"{path}: the PNG header (IHDR) is damaged; get it again from its source")
    fields = struct.unpack_from(">IIBBBBB", data, start)
    _check_fields(path, *fields)
    width, height, bits, colour, _, _, interlace = fields
    if colour == _PALETTE and b"PLTE" not in chunks:
        raise FormatError(
            f"{path}: a palette PNG without its palette (PLTE); get it again from its source"
        )

    palette = _payload(data, *chunks[b"PLTE"]) if colour == _PALETTE else None
    icc = _icc(data, *chunks[b"iCCP"]) if b"iCCP" in chunks else None
    orientation = 1
    if b"eXIf" in chunks:
        orientation = exif.orientation(_payload(data, *chunks[b"eXIf"]))
    return PngHeader(
        height=height,
        width=width,
        samples=_SAMPLES[colour],
        bits=bits,
        interlaced=bool(interlace),
        palette=palette,
        transparency=_payload(data, *chunks[b"tRNS"]) if b"tRNS" in chunks else None,
        icc=icc,
        orientation=orientation,
    )


def transparent(header: PngHeader) -> tuple[int, ...] | None:
    """Return the transparent colour, None where there is none.

    Source: W3C PNG (third edition), section 11.3.1.1: samples of two bytes in grey and RGB, of
    which the lowest bits count.
    """
    chunk = header.transparency
    if chunk is None or header.palette is not None or len(chunk) != 2 * header.samples:
        return None
    mask = (1 << header.bits) - 1
    return tuple(value & mask for value in struct.unpack(f">{header.samples}H", chunk))


def entry_opacity(header: PngHeader) -> Opacity | None:
    """Return how opaque the colours of the palette are, (entries,); None: all wholly.

    Source: as for `transparent`: one byte of alpha for each of the first entries.
    """
    if header.transparency is None or header.palette is None:
        return None
    import numpy as np  # not for every header that is looked at

    opacity = np.full(1 << header.bits, 255, np.uint8)
    stated = np.frombuffer(header.transparency, np.uint8)[: len(opacity)]
    opacity[: len(stated)] = stated
    return opacity if bool((opacity < 255).any()) else None


def _check_fields(
    path: str,
    width: int,
    height: int,
    bits: int,
    colour: int,
    compression: int,
    filtering: int,
    interlace: int,
) -> None:
    """Raise FormatError for a header that no PNG has."""
    if height == 0 or width == 0:
        raise FormatError(
            f"{path}: the PNG header says {height} x {width} px (H x W); "
            "an image needs at least 1 x 1"
        )
    if (compression, filtering) != (0, 0) or interlace > 1:
        raise FormatError(
            f"{path}: unknown PNG compression, filter or interlace method; "
            "save it again as a plain PNG"
        )
    if bits not in _BITS.get(colour, ()):
        kind = _COLOURS.get(colour, f"colour type {colour}")
        raise FormatError(
            f"{path}: found a PNG with {bits} bit {kind}, which does not exist; "
            "the header is damaged, get it again from its source"
        )


def check(path: str, data: Data) -> None:
    """Verify the CRC of every chunk to IEND; raises FormatError naming the first damaged one."""
    for name, start, length in _walk(path, data):
        if not _crc_is_right(data, start, length):
            raise FormatError(
                f"{path}: the PNG chunk {name.decode('ascii')} at byte {start - _BEFORE} fails "
                "its CRC: the file is damaged; get it again from its source"
            )


def pixel_data(path: str, data: Data) -> list[tuple[int, int]]:
    """Return (start, length) of short stretches of the compressed pixels, in order.

    They are cut from the IDAT chunks, which may be of any length.
    """
    chunks = [
        (start, start + length) for name, start, length in _walk(path, data) if name == b"IDAT"
    ]
    return [
        (at, min(_STRETCH, end - at)) for start, end in chunks for at in range(start, end, _STRETCH)
    ]


def _walk(path: str, data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start of payload, length) of every chunk to IEND.

    Raises FormatError where the order breaks.
    """
    position = len(SIGNATURE)
    first = True
    pixels = False
    while position + _BEFORE + _AFTER <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if not name.isalpha():
            raise FormatError(
                f"{path}: no PNG chunk at byte {position}: the file is damaged; get it again"
            )
        if first and name != b"IHDR":
            raise FormatError(
                f"{path}: the PNG starts with {name.decode('ascii')} where IHDR belongs; "
                "get it again"
            )
        end = position + _BEFORE + length + _AFTER
        if end > len(data):
            break
        yield name, position + _BEFORE, length
        first = False
        pixels = pixels or name == b"IDAT"
        if name == b"IEND":
            if not pixels:
                raise FormatError(
                    f"{path}: the PNG has no pixel data (IDAT); get it again from its source"
                )
            return
        position = end
    raise FormatError(
        f"{path}: the PNG is truncated: {len(data)} bytes and no IEND; get it again from its source"
    )


def _payload(
    data: Data,
    start: int,
    length: int,
) -> bytes:
    return data[start : start + length]


def _crc_is_right(
    data: Data,
    start: int,
    length: int,
) -> bool:
    """Compare the checksum, which covers name and payload."""
    end = start + length
    (expected,) = struct.unpack_from(">I", data, end)
    named_payload = memoryview(data)[start - 4 : end]
    return bool(zlib.crc32(named_payload) == expected)


def _icc(
    data: Data,
    start: int,
    length: int,
) -> bytes | None:
    """Return the profile of an iCCP chunk (name, 0, method 0, zlib stream), None when damaged."""
    _, separator, rest = _payload(data, start, length).partition(b"\0")
    method = rest[:1]
    if not separator or method != b"\0":
        return None
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], _MAX_ICC)
    except zlib.error:
        return None
    return profile if inflater.eof else None
