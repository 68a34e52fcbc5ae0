"""In which blocks an image is staged: whole chunks, as many as bounded memory can hold."""

from __future__ import annotations

from dataclasses import dataclass

CHUNK = 512
"""Side of a staged chunk, px. Chunks have this area.

Of an image so wide that CHUNK of its rows are too much, they are lower and wider.
"""
BLOCK_BYTES = 64 << 20
"""Pixels that are copied at a time, at most, bytes.

A row is always whole where only whole rows can be read.
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
    """Choose chunk and block: the file is read once, in order, a block has BLOCK_BYTES at most.

    pixel_bytes: of all bands. grain: (y, x) of what the file can only decode whole, px; None: rows
    from top to bottom, stored as columns where `turned`.
    """
    rows_or_columns = (height, 1) if turned else (1, width)
    tall, wide = grain or rows_or_columns
    if wide >= width:  # whole rows: few of them where they are long
        rows = CHUNK
        while rows > 1 and rows * width * pixel_bytes > BLOCK_BYTES:
            rows //= 2
        chunk = (rows, CHUNK * CHUNK // rows)
        return _blocks(chunk, (rows, width), pixel_bytes)

    columns = _up(wide, CHUNK)
    rows_in_memory = _down(BLOCK_BYTES // (columns * pixel_bytes), CHUNK)
    rows = min(_up(tall, CHUNK), max(CHUNK, rows_in_memory))
    columns *= max(1, BLOCK_BYTES // (rows * columns * pixel_bytes))
    block = (min(rows, _up(height, CHUNK)), min(columns, _up(width, CHUNK)))
    return _blocks((CHUNK, CHUNK), block, pixel_bytes)


def _blocks(
    chunk: tuple[int, int],
    block: tuple[int, int],
    pixel_bytes: int,
) -> Blocks:
    rows, columns = block
    return Blocks(chunk, block, rows * columns * pixel_bytes)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _down(size: int, step: int) -> int:
    return size // step * step
