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
_OTHER_COLOURS = {
    12: "CMYK",
    14: "Lab",
    18: "YCC",
}
# How a colour box names its colours.
_BY_NUMBER = 1
_BY_PROFILE = 2
# Types of a channel: opacity, and opacity by which the colours are multiplied.
_OPACITY = (1, 2)
# From the start of the code stream to the table of components.
_SIZE_MARKER_BYTES = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg2000Header:
    """What the header of the code stream says."""

    height: int
    width: int
    samples: int
    bits: int
    signed: bool
    icc: bytes | None
    alpha: int | None
    """The component that is the opacity of the others, where the boxes say so."""
    tile_bytes: int
    """Compressed bytes of the largest tile, which a decoder reads as a whole; often of all."""


def read_header(path: str, data: Data) -> Jpeg2000Header:
    """Read boxes and size marker.

    Raises FormatError for truncated files and for kinds that are not supported.
    """
    bare = data[:4] == CODE_STREAM
    start, icc, alpha = (0, None, None) if bare else _code_stream(path, data)
    components = start + _SIZE_MARKER_BYTES
    if data[start : start + 4] != CODE_STREAM or components > len(data):
        raise FormatError(
            f"{path}: the JPEG 2000 file has no code stream; get it again from its source"
        )
    fields = struct.unpack_from(">HHIIIIIIIIH", data, start + 4)
    _, _, x1, y1, x0, y0, _, _, _, _, samples = fields
    height = y1 - y0
    width = x1 - x0
    if width <= 0 or height <= 0 or not samples:
        raise FormatError(
            f"{path}: the JPEG 2000 header says {height} x {width} px (H x W); "
            "at least 1 x 1 is needed"
        )
    if data.rfind(_END, max(start, len(data) - 1024)) < 0:
        raise FormatError(
            f"{path}: the JPEG 2000 code stream is truncated: no end marker; get it again"
        )
    depth = _common_depth(path, data[components : components + 3 * samples], samples)
    return Jpeg2000Header(
        height=height,
        width=width,
        samples=samples,
        bits=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        icc=icc,
        alpha=alpha if alpha is not None and alpha < samples else None,
        tile_bytes=_largest_tile(data, start),
    )


def _common_depth(
    path: str,
    table: bytes,
    samples: int,
) -> int:
    """Return the depth that all components have, as the size marker states it.

    table: depth, horizontal and vertical step of every component.
    """
    if len(table) < 3 * samples:
        raise FormatError(f"{path}: the JPEG 2000 header is cut; get it again from its source")
    depths = set(table[0::3])
    steps = set(table[1::3]) | set(table[2::3])
    if steps != {1}:
        raise FormatError(
            f"{path}: found a JPEG 2000 with subsampled components; "
            "save it again without: gdal_translate"
        )
    if len(depths) > 1:
        raise FormatError(
            f"{path}: found a JPEG 2000 whose components differ in depth; "
            "save it again: gdal_translate"
        )
    return depths.pop()


def _largest_tile(data: Data, start: int) -> int:
    """Return the bytes of the largest tile by its tile parts.

    What cannot be followed counts as one tile.
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
        before = sizes.get(tile, 0)
        if size < 14:  # 0: to the end of the code stream
            sizes[tile] = before + len(data) - position
            break
        sizes[tile] = before + size
        position += size
    return max(sizes.values(), default=len(data) - start)


def _code_stream(path: str, data: Data) -> tuple[int, bytes | None, int | None]:
    """Return (start of the code stream, ICC profile, component of opacity) by walking the boxes."""
    position = 0
    icc = None
    alpha = None
    headed = False
    while position + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        head = 8
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        to_the_end = size == 0
        end = len(data) if to_the_end else position + size
        if not to_the_end and (size < head or end > len(data)):
            raise FormatError(
                f"{path}: the JP2 box at byte {position} claims {size} bytes, "
                f"the file has {len(data)}; get it again"
            )
        if name == b"jp2c":
            if not headed:
                raise FormatError(
                    f"{path}: the JP2 file has no header box before its pixels; get it again"
                )
            return position + head, icc, alpha
        if name == b"jp2h":
            headed = True
            icc, alpha = _colours(path, data[position + head : end])
        position = end
    raise FormatError(
        f"{path}: the JP2 file has no code stream among its boxes; get it again from its source"
    )


def _colours(path: str, header: bytes) -> tuple[bytes | None, int | None]:
    """Return the ICC profile of the header's colour box and the component that is opacity.

    None where there is no such.

    Raises FormatError for palettes and for colours that are neither grey nor RGB.
    """
    position = 0
    icc = None
    alpha = None
    while position + 8 <= len(header):
        size, name = struct.unpack_from(">I4s", header, position)
        end = position + size
        if size < 8 or end > len(header):
            raise FormatError(
                f"{path}: the JP2 header box is damaged; get it again from its source"
            )
        body = header[position + 8 : end]
        if name == b"pclr":
            raise FormatError(
                f"{path}: found a JPEG 2000 with a palette; "
                "save it as RGB: gdal_translate -expand rgb"
            )
        if name == b"colr" and len(body) >= 3:
            method = body[0]
            if method == _BY_PROFILE:
                icc = body[3:]
            elif method == _BY_NUMBER and len(body) >= 7:
                _refuse_colours(path, body)
        if name == b"cdef":
            alpha = _opacity(body)
        position = end
    return icc, alpha


def _opacity(body: bytes) -> int | None:
    """Return the component that the channel definitions (annex I.5.3.6) call opacity."""
    for place in range(2, len(body) - 5, 6):
        component, kind = struct.unpack_from(">HH", body, place)
        if kind in _OPACITY:
            return int(component)
    return None


def _refuse_colours(path: str, body: bytes) -> None:
    (space,) = struct.unpack_from(">I", body, 3)
    if space in (_SRGB, _GREY):
        return
    name = _OTHER_COLOURS.get(space, f"colour space {space}")
    raise FormatError(f"{path}: found a JPEG 2000 in {name}; save it as RGB: gdal_translate")
