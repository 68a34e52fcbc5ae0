"""JPEG 2000: the boxes of a JP2 file and the size marker of its code stream, by hand.

Source: ITU-T T.800, annex A (SIZ, SOT) and annex I (boxes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from storage.byte_source import Data
from storage.errors import FormatError

BOXES = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
CODE_STREAM = b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_SOT = 0xFF90
_GREY = 17
_SRGB = 16
_YCC = 18
_CMYK = 12
_LAB = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg2000Header:
    """What the header of the code stream says."""

    height: int
    width: int
    samples: int
    bits: int
    signed: bool
    icc: bytes | None
    tile_bytes: int
    """Compressed bytes of the largest tile, which a decoder reads as a whole; often there is only
    one.
    """


def read_header(path: str, data: Data) -> Jpeg2000Header:
    """Read boxes and size marker; raises FormatError for truncated files and for kinds that are not
    supported.
    """
    start, icc = (0, None) if data[:4] == CODE_STREAM else _code_stream(path, data)
    if data[start : start + 4] != CODE_STREAM or start + 42 > len(data):
        raise FormatError(
            f"{path}: the JPEG 2000 file has no code stream; get it again from its source"
        )
    _, _, x1, y1, x0, y0, _, _, _, _, samples = struct.unpack_from(">HHIIIIIIIIH", data, start + 4)
    if x1 <= x0 or y1 <= y0 or not samples:
        raise FormatError(
            f"{path}: the JPEG 2000 header says {y1 - y0} x {x1 - x0} px (H x W); at least 1 x 1 is needed"
        )
    if data.rfind(_END, max(start, len(data) - 1024)) < 0:
        raise FormatError(
            f"{path}: the JPEG 2000 code stream is truncated: no end marker; get it again"
        )
    table = data[start + 42 : start + 42 + 3 * samples]
    if len(table) < 3 * samples:
        raise FormatError(f"{path}: the JPEG 2000 header is cut; get it again from its source")
    depths = set(table[0::3])
    steps = set(table[1::3]) | set(table[2::3])
    if steps != {1}:
        raise FormatError(
            f"{path}: found a JPEG 2000 with subsampled components; save it again without: gdal_translate"
        )
    if len(depths) > 1:
        raise FormatError(
            f"{path}: found a JPEG 2000 whose components differ in depth; save it again: gdal_translate"
        )
    depth = depths.pop()
    return Jpeg2000Header(
        height=y1 - y0,
        width=x1 - x0,
        samples=samples,
        bits=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        icc=icc,
        tile_bytes=_largest_tile(data, start),
    )


def _largest_tile(data: Data, start: int) -> int:
    """Return the bytes of the largest tile by its tile parts; what cannot be followed counts as one
    tile.
    """
    position = start + 2
    sizes = dict[int, int]()
    while position + 12 <= len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        if marker != _SOT:
            if sizes or marker < 0xFF00:
                break
            position += 2 + length
            continue
        tile, size = struct.unpack_from(">HI", data, position + 4)
        if size < 14:  # 0: to the end of the code stream
            sizes[tile] = sizes.get(tile, 0) + len(data) - position
            break
        sizes[tile] = sizes.get(tile, 0) + size
        position += size
    return max(sizes.values(), default=len(data) - start)


def _code_stream(path: str, data: Data) -> tuple[int, bytes | None]:
    """Return (start of the code stream, ICC profile) by walking the boxes."""
    position = 0
    icc = None
    headed = False
    while position + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        head = 8
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        end = len(data) if size == 0 else position + size
        if size != 0 and (size < head or end > len(data)):
            raise FormatError(
                f"{path}: the JP2 box at byte {position} claims {size} bytes, the file has {len(data)}; get it again"
            )
        if name == b"jp2c":
            if not headed:
                raise FormatError(
                    f"{path}: the JP2 file has no header box before its pixels; get it again"
                )
            return position + head, icc
        if name == b"jp2h":
            headed = True
            icc = _colour(path, data[position + head : end])
        position = end
    raise FormatError(
        f"{path}: the JP2 file has no code stream among its boxes; get it again from its source"
    )


def _colour(path: str, header: bytes) -> bytes | None:
    """Return the ICC profile of the header's colour box, if there is one; refuses palettes and
    other colours.
    """
    position = 0
    icc = None
    while position + 8 <= len(header):
        size, name = struct.unpack_from(">I4s", header, position)
        if size < 8 or position + size > len(header):
            raise FormatError(
                f"{path}: the JP2 header box is damaged; get it again from its source"
            )
        body = header[position + 8 : position + size]
        if name == b"pclr":
            raise FormatError(
                f"{path}: found a JPEG 2000 with a palette; save it as RGB: gdal_translate -expand rgb"
            )
        if name == b"colr" and len(body) >= 3:
            if body[0] == 2:
                icc = body[3:]
            elif body[0] == 1 and len(body) >= 7:
                (space,) = struct.unpack_from(">I", body, 3)
                if space not in (_SRGB, _GREY):
                    known = {_YCC: "YCC", _CMYK: "CMYK", _LAB: "Lab"}.get(
                        space, f"colour space {space}"
                    )
                    raise FormatError(
                        f"{path}: found a JPEG 2000 in {known}; save it as RGB: gdal_translate"
                    )
        position += size
    return icc
