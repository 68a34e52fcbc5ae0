"""The one EXIF value that moves pixels: the orientation."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.image import Pixels

_ORIENTATION = 0x0112
_SHORT = 3
_ENTRY_BYTES = 12
_BYTE_ORDERS = {b"II": "<", b"MM": ">"}
_UPRIGHT = 1
UPSIDE_DOWN = (3, 4, 7, 8)
"""Orientations whose rows go upwards, once height and width have been exchanged where needed."""
MIRRORED = (2, 3, 6, 7)
"""Orientations whose columns go to the left, then."""


def orientation(exif: bytes) -> int:
    """Return the orientation 1..8 from an EXIF block (a small TIFF: 'II' or 'MM' first).

    A broken or silent block gives 1, upright: cameras write damaged EXIF beside good pixels.
    """
    order = _BYTE_ORDERS.get(exif[:2])
    if order is None or len(exif) < 8:
        return _UPRIGHT
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return _UPRIGHT
    (count,) = struct.unpack_from(order + "H", exif, start)
    first_entry = start + 2
    end = first_entry + _ENTRY_BYTES * count
    last_possible = len(exif) - (_ENTRY_BYTES - 1)
    for entry in range(first_entry, min(end, last_possible), _ENTRY_BYTES):
        tag, kind, _ = struct.unpack_from(order + "HHI", exif, entry)
        if tag == _ORIENTATION and kind == _SHORT:
            (value,) = struct.unpack_from(order + "H", exif, entry + 8)
            return value if 1 <= value <= 8 else _UPRIGHT
    return _UPRIGHT


def swaps_sides(value: int) -> bool:
    """Tell whether an orientation exchanges height and width."""
    return value >= 5


def upright(pixels: Pixels, value: int) -> Pixels:
    """Return (H, W, C) pixels as they are meant to be seen; a view.

    Source: EXIF 2.32, tag 0x0112, which names where the stored row 0 and column 0 belong.
    """
    if swaps_sides(value):
        pixels = pixels.swapaxes(0, 1)
    if value in UPSIDE_DOWN:
        pixels = pixels[::-1]
    if value in MIRRORED:
        pixels = pixels[:, ::-1]
    return pixels
