"""PNG: the header by hand, and a walk over every chunk before a decoder sees the file.

Source: W3C PNG specification (third edition), sections 5 (structure), 11.2 (IHDR, PLTE, IDAT, IEND) and 11.3.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from storage import exif
from storage.errors import FormatError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUPPORTED = "supported: 8 or 16 bit grey or RGB"
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
# A colour profile is a few KiB; the limit stops a zlib bomb hidden in one.
_MAX_ICC = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PngHeader:
    """What IHDR and the chunks around the pixels say."""

    height: int
    width: int
    channels: int
    bits: int
    icc: bytes | None
    orientation: int


def read_header(path: str, data: mmap.mmap) -> PngHeader:
    """Read the header and check that the chunks lead to IEND, without reading the pixels.

    Raises FormatError for a truncated file and for kinds of PNG that are not supported.
    """
    chunks: dict[bytes, tuple[int, int]] = {}
    for name, start, length in _walk(path, data):
        chunks.setdefault(name, (start, length))
    start, length = chunks[b"IHDR"]
    if length != 13 or not _crc_is_right(data, start, length):
        raise FormatError(f"{path}: the PNG header (IHDR) is damaged; get the file again from its source")
    width, height, bits, colour, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", data, start)
    if height == 0 or width == 0:
        raise FormatError(f"{path}: the PNG header says {height} x {width} px (H x W); an image needs at least 1 x 1")
    if (compression, filtering) != (0, 0) or interlace > 1:
        raise FormatError(f"{path}: unknown PNG compression, filter or interlace method; save it again as a plain PNG")
    _refuse_unsupported(path, bits, colour, transparent=b"tRNS" in chunks)
    return PngHeader(
        height=height,
        width=width,
        channels=3 if colour == 2 else 1,
        bits=bits,
        icc=_icc(data, *chunks[b"iCCP"]) if b"iCCP" in chunks else None,
        orientation=exif.orientation(_payload(data, *chunks[b"eXIf"])) if b"eXIf" in chunks else 1,
    )


def check(path: str, data: mmap.mmap) -> None:
    """Verify the CRC of every chunk to IEND; raises FormatError naming the first damaged one."""
    for name, start, length in _walk(path, data):
        if not _crc_is_right(data, start, length):
            raise FormatError(
                f"{path}: the PNG chunk {name.decode('ascii')} at byte {start - 8} fails its CRC: the file is damaged; "
                "get it again from its source"
            )


def _walk(path: str, data: mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start of payload, length) of every chunk to IEND; raises FormatError where the order breaks."""
    position, first, pixels = len(SIGNATURE), True, False
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if not name.isalpha():
            raise FormatError(f"{path}: no PNG chunk at byte {position}: the file is damaged; get it again")
        if first and name != b"IHDR":
            raise FormatError(f"{path}: the PNG starts with {name.decode('ascii')} where IHDR belongs; get it again")
        if position + 12 + length > len(data):
            break
        yield name, position + 8, length
        first, pixels = False, pixels or name == b"IDAT"
        if name == b"IEND":
            if not pixels:
                raise FormatError(f"{path}: the PNG has no pixel data (IDAT); get it again from its source")
            return
        position += 12 + length
    raise FormatError(f"{path}: the PNG is truncated: {len(data)} bytes and no IEND; get it again from its source")


def _refuse_unsupported(path: str, bits: int, colour: int, *, transparent: bool) -> None:
    found = f"{path}: found a PNG with {bits} bit {_COLOURS.get(colour, f'colour type {colour}')}"
    if colour == 3:
        raise FormatError(f"{found}; {_SUPPORTED}; convert it: magick in.png -define png:color-type=2 out.png")
    if colour in (4, 6) or transparent:
        key = "" if colour in (4, 6) else " and a transparent colour (tRNS)"
        raise FormatError(f"{found}{key}; {_SUPPORTED}; remove the transparency: magick in.png -alpha off out.png")
    if colour not in (0, 2) or bits not in (8, 16):
        raise FormatError(f"{found}; {_SUPPORTED}; convert it: magick in.png -depth 8 out.png")


def _payload(data: mmap.mmap, start: int, length: int) -> bytes:
    return data[start : start + length]


def _crc_is_right(data: mmap.mmap, start: int, length: int) -> bool:
    (expected,) = struct.unpack_from(">I", data, start + length)
    return bool(zlib.crc32(memoryview(data)[start - 4 : start + length]) == expected)


def _icc(data: mmap.mmap, start: int, length: int) -> bytes | None:
    """Return the profile of an iCCP chunk (name, 0, method 0, zlib stream), or None when it is damaged."""
    _, separator, rest = _payload(data, start, length).partition(b"\0")
    if not separator or rest[:1] != b"\0":
        return None
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], _MAX_ICC)
    except zlib.error:
        return None
    return profile if inflater.eof else None
