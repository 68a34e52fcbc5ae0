"""In which pieces an image is staged: chunks of one area, and blocks of whole chunks that bounded
memory can hold.
"""

from __future__ import annotations

from dataclasses import dataclass

CHUNK = 512
"""Side of a staged chunk, px. Of an image so wide that CHUNK of its rows are too much, chunks are
lower and wider.
"""
BLOCK_BYTES = 64 << 20
"""Pixels that are copied at a time, at most, bytes; a row is always whole where only whole rows can
be read.
"""


@dataclass(frozen=True, slots=True)
class Blocks:
    """How an image is cut."""

    chunk: tuple[int, int]
    """(y, x) of a chunk, px."""
    block: tuple[int, int]
    """(y, x) of what is copied at a time, px: whole chunks, as many as cover the image once."""
    nbytes: int
    """Size of a block, bytes."""


def cut(
    height: int,
    width: int,
    pixel_bytes: int,
    grain: tuple[int, int] | None,
    *,
    turned: bool = False,
) -> Blocks:
    """Choose chunk and block so that the file is read once, in order, and a block has BLOCK_BYTES
    at most.

    pixel_bytes: of all bands. grain: (y, x) of what the file can only decode whole, px; None: rows
    from top to bottom, stored as columns where `turned`.
    """
    tall, wide = grain or ((height, 1) if turned else (1, width))
    if wide >= width:  # whole rows: few of them where they are long
        rows = CHUNK
        while rows > 1 and rows * width * pixel_bytes > BLOCK_BYTES:
            rows //= 2
        return _blocks((rows, CHUNK * CHUNK // rows), (rows, width), pixel_bytes)
    columns = _up(wide, CHUNK)
    rows = min(_up(tall, CHUNK), max(CHUNK, _down(BLOCK_BYTES // (columns * pixel_bytes), CHUNK)))
    columns *= max(1, BLOCK_BYTES // (rows * columns * pixel_bytes))
    return _blocks(
        (CHUNK, CHUNK),
        (min(rows, _up(height, CHUNK)), min(columns, _up(width, CHUNK))),
        pixel_bytes,
    )


def _blocks(chunk: tuple[int, int], block: tuple[int, int], pixel_bytes: int) -> Blocks:
    return Blocks(chunk, block, block[0] * block[1] * pixel_bytes)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _down(size: int, step: int) -> int:
    return size // step * step
