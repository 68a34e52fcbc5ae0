"""The one EXIF value that moves pixels: the orientation."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.image import Pixels

_ORIENTATION = 0x0112
_SHORT = 3


def orientation(exif: bytes) -> int:
    """Return the orientation 1..8 from an EXIF block (a small TIFF: 'II' or 'MM' first).

    A broken or silent block gives 1, upright: cameras write damaged EXIF beside perfectly good
    pixels.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _ = struct.unpack_from(order + "HHI", exif, entry)
        if tag == _ORIENTATION and kind == _SHORT:
            (value,) = struct.unpack_from(order + "H", exif, entry + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def swaps_sides(value: int) -> bool:
    """Tell whether an orientation exchanges height and width."""
    return value >= 5


def upright(pixels: Pixels, value: int) -> Pixels:
    """Return (H, W, C) pixels as they are meant to be seen; a view.

    Source: EXIF 2.32, tag 0x0112, which names where the stored row 0 and column 0 belong.
    """
    if swaps_sides(value):
        pixels = pixels.swapaxes(0, 1)
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
