"""Tile geometry: where tiles lie, which pixels each one owns, which tile it waits for. Pure integers, O(1) per tile.

One axis of length 640 with tile 256 and stride 128, raster order (root 0):

    start   0     128    256    384
    tile 0  [0 . . . . . 256)                      owns [0, 256)
    tile 1        [128 . . . . . 384)              owns [256, 384)
    tile 2               [256 . . . . . 512)       owns [384, 512)
    tile 3                      [384 . . . . 640)  owns [512, 640)

In two dimensions everything is a product of two axes: a tile owns (rows its row index owns) x (columns its column index
owns), is pinned on the rest of its box, and waits for at most two tiles: its neighbour towards the root row and its
neighbour towards the root column. Those two carry the whole halo, since each strip of the overlap lies inside one
of their boxes. The raster order has its root in the corner, the centre-out order in the middle (half the depth).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.errors import PlanError


class TileKey(NamedTuple):
    """A tile's name: restoration level (0 = full size), row and column in that level's grid."""

    level: int
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class AxisGrid:
    """Tiles along one axis: starts 0, S, 2S, ... and a last one at length - tile."""

    length: int
    """Padded length of the axis, px."""
    tile: int
    stride: int
    root: int
    """Index of the tile that waits for nobody."""

    @property
    def count(self) -> int:
        return 1 + -(-(self.length - self.tile) // self.stride)

    def start(self, i: int) -> int:
        return min(i * self.stride, self.length - self.tile)

    def end(self, i: int) -> int:
        return self.start(i) + self.tile

    def parent(self, i: int) -> int | None:
        """Return the neighbour towards the root, which tile i waits for."""
        if i == self.root:
            return None
        return i - 1 if i > self.root else i + 1

    def children(self, i: int) -> list[int]:
        """Return the neighbours that wait for tile i."""
        found = []
        if i >= self.root and i + 1 < self.count:
            found.append(i + 1)
        if i <= self.root and i > 0:
            found.append(i - 1)
        return found

    def owned(self, i: int) -> tuple[int, int]:
        """Return the half-open interval that tile i writes.

        >>> axis = AxisGrid(640, 256, 128, root=0)
        >>> [axis.owned(i) for i in range(axis.count)]
        [(0, 256), (256, 384), (384, 512), (512, 640)]
        """
        if i > self.root:
            return self.end(i - 1), self.end(i)
        if i < self.root:
            return self.start(i), self.start(i + 1)
        return self.start(i), self.end(i)

    def owner(self, position: int) -> int:
        """Return the index of the tile that owns the pixel at `position`."""
        if position < self.start(self.root):
            return position // self.stride
        if position < self.end(self.root):
            return self.root
        return min(-(-(position + 1 - self.tile) // self.stride), self.count - 1)

    def carriers(self, lo: int, hi: int) -> list[int]:
        """Return the fewest indices whose chains to the root pass through every owner of the pixels [lo, hi)."""
        first, last = self.owner(lo), self.owner(hi - 1)
        if first >= self.root:
            return [last]
        if last <= self.root:
            return [first]
        return [first, last]


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of one level."""

    level: int
    rows: AxisGrid
    cols: AxisGrid
    cell: int
    """Side of the working array's cells, px: the greatest length that divides every boundary between owned boxes."""

    @classmethod
    def build(cls, level: int, height: int, width: int, tile: int, stride: int, order: str) -> TileGrid:
        """Lay tiles over a padded level of height x width px; raises PlanError when they cannot be laid."""
        if not 0 < stride < tile:
            raise PlanError(f"stride {stride} does not overlap tiles of {tile} px; choose a stride below {tile}")
        if height < tile or width < tile:
            raise PlanError(f"level {level} is {height}x{width} px, below one tile of {tile} px; pad it first")
        rows, cols = (_axis(length, tile, stride, order) for length in (height, width))
        return cls(level, rows, cols, math.gcd(tile, stride))

    @property
    def count(self) -> int:
        return self.rows.count * self.cols.count

    def box(self, key: TileKey) -> tuple[int, int, int, int]:
        """Return the tile's window y0, x0, y1, x1 in px of the padded level."""
        y0, x0 = self.rows.start(key.row), self.cols.start(key.col)
        return y0, x0, y0 + self.rows.tile, x0 + self.cols.tile

    def owned(self, key: TileKey) -> tuple[int, int, int, int]:
        """Return the box y0, x0, y1, x1 that the tile writes; owned boxes partition the level."""
        (y0, y1), (x0, x1) = self.rows.owned(key.row), self.cols.owned(key.col)
        return y0, x0, y1, x1

    def parents(self, key: TileKey) -> list[TileKey]:
        """Return the tiles of this level that must be committed first (at most two)."""
        up, left = self.rows.parent(key.row), self.cols.parent(key.col)
        found = [] if up is None else [TileKey(self.level, up, key.col)]
        return found if left is None else [*found, TileKey(self.level, key.row, left)]

    def children(self, key: TileKey) -> list[TileKey]:
        """Return the tiles of this level that wait for this one."""
        down = [TileKey(self.level, row, key.col) for row in self.rows.children(key.row)]
        return down + [TileKey(self.level, key.row, col) for col in self.cols.children(key.col)]

    def depth(self, key: TileKey) -> int:
        """Return the number of tiles of this level on the longest chain before this one."""
        return abs(key.row - self.rows.root) + abs(key.col - self.cols.root)

    @property
    def longest_chain(self) -> int:
        """Number of tiles on the level's critical path."""
        return 1 + sum(max(axis.root, axis.count - 1 - axis.root) for axis in (self.rows, self.cols))

    def index(self, key: TileKey) -> int:
        return key.row * self.cols.count + key.col

    def key(self, index: int) -> TileKey:
        return TileKey(self.level, *divmod(index, self.cols.count))

    def keys(self) -> Iterator[TileKey]:
        return (self.key(i) for i in range(self.count))


def _axis(length: int, tile: int, stride: int, order: str) -> AxisGrid:
    count = AxisGrid(length, tile, stride, 0).count
    # (count - 1) // 2 is never the last tile of several: only the last one starts off the stride, and a root there
    # would put a boundary of owned boxes off the cell lattice.
    root = {"raster": 0, "centre": (count - 1) // 2}[order]
    return AxisGrid(length, tile, stride, root)
