"""The quality of a JPEG stream, estimated from its quantisation tables.

Encoders scale the tables of ITU-T T.81, annex K by a quality from 1 to 100; the formula is the
Independent JPEG Group's: 5000 / q per cent below 50, 200 - 2 q per cent from 50 on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from storage.coding import Coding
from storage.readers.common.jpeg_markers import (
    BARE,
    END_OF_IMAGE,
    QUANTISATION,
    START_OF_SCAN,
)

# Table K.1 (luminance) row by row.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_SIDE = 8
# Steps that differ by more than this share, on average, are another encoder's tables.
_NEAR = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegTables:
    """What the header of a stream says of its coding."""

    luminance: tuple[int, ...] | None
    """The first quantisation table in zigzag order, or None."""

    def coding(self) -> Coding:
        """Return the coding of one stream that is the whole image."""
        quality = self.quality()
        number, exact = (None, True) if quality is None else quality
        return Coding(name="JPEG", quality=number, exact=exact, blocks=(_SIDE, _SIDE))

    def quality(self) -> tuple[int, bool] | None:
        """Return (quality 1 to 100, whether the table is exactly that one); None without a table.

        None as well for a table that is far from all of them.
        """
        if self.luminance is None:
            return None
        errors = {quality: self._error(quality) for quality in range(1, 101)}
        best = min(errors, key=lambda quality: (errors[quality], -quality))
        return (best, errors[best] == 0) if errors[best] <= _NEAR else None

    def _error(self, quality: int) -> float:
        """Return how much the steps differ from those of a quality, as a share of them."""
        wanted = scaled_table(quality)
        steps = self.luminance or ()
        differences = sum(abs(a - b) for a, b in zip(steps, wanted, strict=True))
        return differences / sum(wanted)


def scaled_table(quality: int) -> tuple[int, ...]:
    """Return the luminance table of a quality for 8 bit, in zigzag order."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = [min(max((step * percent + 50) // 100, 1), 255) for step in _LUMINANCE]
    return tuple(steps[place] for place in _ZIGZAG)


def _zigzag() -> Iterator[int]:
    """Yield the places of an 8 x 8 block along its antidiagonals, by turns up and down."""
    for diagonal in range(2 * _SIDE - 1):
        rows = [row for row in range(_SIDE) if 0 <= diagonal - row < _SIDE]
        for row in rows if diagonal % 2 else reversed(rows):
            yield row * _SIDE + diagonal - row


_ZIGZAG = tuple(_zigzag())


def read_tables(*streams: bytes) -> JpegTables:
    """Return what the headers of streams say; of abbreviated ones the later adds to the earlier."""
    luminance: tuple[int, ...] | None = None
    for stream in streams:
        for marker, body in _segments(stream):
            if marker == QUANTISATION:
                luminance = luminance or _first_table(body)
    return JpegTables(luminance=luminance)


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, payload) up to the first scan, or to where the stream is cut."""
    position = 2
    while position + 4 <= len(stream):
        marker = stream[position + 1]
        if stream[position] != 0xFF or marker == 0xFF:
            position += 1
        elif marker in BARE:
            position += 2
        elif marker in (START_OF_SCAN, END_OF_IMAGE):
            return
        else:
            (length,) = struct.unpack_from(">H", stream, position + 2)
            yield marker, stream[position + 4 : position + 2 + length]
            position += 2 + max(length, 2)


def _first_table(body: bytes) -> tuple[int, ...] | None:
    """Return table 0 of a quantisation segment (T.81, B.2.4.1), which luminance uses; or None."""
    position = 0
    while position < len(body):
        wide, number = divmod(body[position], 16)
        form = ">64H" if wide else ">64B"
        position += 1
        if position + struct.calcsize(form) > len(body):
            return None
        if number == 0:
            return struct.unpack_from(form, body, position)
        position += struct.calcsize(form)
    return None
