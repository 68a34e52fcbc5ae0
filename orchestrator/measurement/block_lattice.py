"""Find the lattice of coded blocks in the measurement, so that no one takes it for seams.

JPEG transforms blocks of 8 x 8 px on their own. The steps between them are in what was measured,
also where a part was cut out and saved again without loss or in other blocks: the file's header
then says nothing of them. They are found by how much each line of the measurement differs from its
neighbours (blockiness: Wang, Sheikh and Bovik 2002).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from storage.box import Box
from storage.image import Reader

Float64 = NDArray[np.float64]
Distance = Callable[[int], int]

# Sides of blocks that are looked for, px: JPEG's, and those of a picture enlarged by 2.
SIDES = (8, 16)
# Windows of WINDOW x WINDOW px at most, spread over the image.
WINDOW = 512
WINDOWS_ACROSS = 4
# A lattice's lines must differ from their neighbours by this share more than others do, and by this
# many standard errors: 8 or 16 phases of two axes are tried.
LEAST_STEP = 0.03
LEAST_SIGMAS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLattice:
    """Where blocks begin, along one axis of the measurement."""

    side: int
    """px; 1: no blocks were found."""
    offset: int = 0
    """Of the first edge, px."""

    def distance(self, line: int) -> int:
        """Return how far the border before a line is from the nearest edge of a block, px."""
        inside = (line - self.offset) % self.side
        return min(inside, self.side - inside)


NO_BLOCKS = BlockLattice(side=1)


def find_lattices(image: Reader) -> tuple[BlockLattice, BlockLattice]:
    """Return the lattices along y and x that the pixels of windows spread over the image show."""
    found: list[list[tuple[Float64, Float64]]] = [[], []]
    for box in spread_windows(image.info.height, image.info.width):
        pixels = image.read(box)
        for axis, start in ((0, box.y0), (1, box.x0)):
            lines, steps = _relative_steps(pixels, axis)
            found[axis].append((lines + start, steps))
    along_y, along_x = (_lattice(parts) for parts in found)
    return along_y, along_x


def spread_windows(height: int, width: int) -> Iterator[Box]:
    """Yield at most WINDOWS_ACROSS^2 windows of at most WINDOW px, evenly spread."""
    for y in _starts(height):
        for x in _starts(width):
            yield Box(y, x, y + WINDOW, x + WINDOW).clip(height, width)


def _starts(length: int) -> list[int]:
    count = min(-(-length // WINDOW), WINDOWS_ACROSS)
    last = max(length - WINDOW, 0)
    return [last * i // max(count - 1, 1) for i in range(count)]


def _relative_steps(pixels: NDArray[np.generic], axis: int) -> tuple[Float64, Float64]:
    """Return lines and by which share each differs more from the one before than its neighbours."""
    x = np.nan_to_num(pixels.astype(np.float64), posinf=0.0, neginf=0.0)
    across = np.abs(np.diff(x, axis=1 + axis)).sum(axis=(0, 2 - axis))
    beside = (across[:-2] + across[2:]) / 2
    lines = np.arange(2, len(across))
    useful = beside > 0
    return lines[useful].astype(np.float64), (across[1:-1][useful] / beside[useful]) - 1


def _lattice(parts: list[tuple[Float64, Float64]]) -> BlockLattice:
    """Return the lattice whose edges stand out, or NO_BLOCKS."""
    if not parts:
        return NO_BLOCKS
    lines = np.concatenate([part[0] for part in parts]).astype(np.int64)
    steps = np.concatenate([part[1] for part in parts])
    # A sharp object has single lines that are many times as strong as their neighbours.
    steps = steps.clip(-1.0, 1.0)
    for side in SIDES:
        phases = lines % side
        strengths = [_strength(steps, phases == phase) for phase in range(side)]
        best = int(np.argmax(strengths))
        if strengths[best] >= LEAST_SIGMAS:
            return BlockLattice(side=side, offset=best)
    return NO_BLOCKS


def _strength(steps: Float64, chosen: NDArray[np.bool_]) -> float:
    """Return by how many standard errors the chosen lines stand out of the others; 0 below
    LEAST_STEP.
    """
    inside = steps[chosen]
    others = steps[~chosen]
    if len(inside) < 4 or len(others) < 4:
        return 0.0
    more = float(inside.mean() - others.mean())
    error = math.sqrt(inside.var() / len(inside) + others.var() / len(others))
    if more < LEAST_STEP:
        return 0.0
    return math.inf if error == 0 else more / error


def measured_distances(image: Reader) -> tuple[Distance, Distance] | None:
    """Return how far a row and how far a column is from the edge of a block; None without blocks.

    The pixels are believed rather than the file's header, which knows the latest coding only, but
    where blocks begin anew in tiles or strips that they do not fill.
    """
    info = image.info
    coding = info.coding
    lattices = find_lattices(image)
    seen = any(lattice is not NO_BLOCKS for lattice in lattices)
    if coding is not None and coding.blocks is not None and (coding.restarts or not seen):
        return (
            partial(coding.edge_distance, 0, length=info.height),
            partial(coding.edge_distance, 1, length=info.width),
        )
    return (lattices[0].distance, lattices[1].distance) if seen else None


def output_kind(distance: Distance, scale: int, begin: int) -> Distance:
    """Return the kind of a line of the output: its place in its cell and the distance of that from
    the edge of a block.

    scale: px of the output per px of the measurement. begin: where the measurement begins, px.
    """

    def kind(line: int) -> int:
        cell, inside = divmod(line - begin, scale)
        return distance(cell) * scale + inside

    return kind
