"""Tile geometry: where tiles lie, which pixels each one owns, which tile it waits for. Pure integers, O(1) per tile.

One axis of length 640 with tile 256 and stride 128, raster order (root 0), without and with a margin of 64:

    tile    window         owns (margin 0)   owns (margin 64)   pinned (margin 64)
    0       [0, 256)       [0, 256)          [0, 192)           -
    1       [128, 384)     [256, 384)        [192, 320)         [128, 192)
    2       [256, 512)     [384, 512)        [320, 448)         [256, 320)
    3       [384, 640)     [512, 640)        [448, 640)         [384, 448)

The margin is the outer part of a window that a tile restores but does not commit, because nothing beyond the window
told the network what comes there; the next tile restores it again, with context on both sides. Margin 0 is the paper's
geometry. The pixels of a window that are neither owned nor margin are pinned: earlier tiles have committed them.

In two dimensions everything is a product of two axes. A tile waits for at most two tiles: its neighbour towards the
root row and its neighbour towards the root column; those two and theirs have committed every pinned pixel. The raster
order has its root in the corner, the centre-out order in the middle (half the depth).

Where measurements overlap (`corners`), no two tiles that share one may be restored unaware of each other: a tile then
waits for the tiles diagonally behind it too, away from the root column, and what they committed is pinned as well. It
still waits for two at most, since those have waited for its neighbour towards the root row; the depth in rows doubles.
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
    margin: int
    """Outer pixels of a window that a tile does not commit, except at the image's own edge, px."""
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
        """Return the half-open interval that tile i writes; these intervals partition the axis.

        >>> axis = AxisGrid(640, 256, 128, margin=64, root=0)
        >>> [axis.owned(i) for i in range(axis.count)]
        [(0, 192), (192, 320), (320, 448), (448, 640)]
        """
        first = self._cut_before(i) if i > self.root else self._cut_after(i - 1)
        last = self._cut_before(i + 1) if i >= self.root else self._cut_after(i)
        return first, last

    def _cut_before(self, i: int) -> int:
        """Return where tile i > root takes over from tile i - 1; past the last tile the axis ends."""
        return self.length if i == self.count else self.end(i - 1) - self.margin

    def _cut_after(self, i: int) -> int:
        """Return where tile i < root hands over to tile i + 1; before the first tile the axis begins."""
        return 0 if i < 0 else self.start(i + 1) + self.margin

    def settled(self, i: int) -> tuple[int, int]:
        """Return the part of tile i's window that is committed once tile i is: its own and its chain's pixels."""
        (lo, hi), (root_lo, root_hi) = self.owned(i), self.owned(self.root)
        if i >= self.root:
            return max(self.start(i), root_lo), hi
        return lo, min(self.end(i), root_hi)

    def owner(self, position: int) -> int:
        """Return the index of the tile that owns the pixel at `position`."""
        lo, hi = self.owned(self.root)
        if position < lo:
            return max((position - self.margin) // self.stride, 0)
        if position < hi:
            return self.root
        return min(-(-(position + 1 + self.margin - self.tile) // self.stride), self.count - 1)

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
    """Side of the working array's cells, px: the greatest that puts every boundary between owned boxes on a lattice."""
    corners: bool = False
    """Whether a tile sees everything that was committed under its window, the corners of the window included."""

    @classmethod
    def build(
        cls,
        level: int,
        height: int,
        width: int,
        tile: int,
        stride: int,
        order: str,
        margin: int = 0,
        *,
        corners: bool = False,
    ) -> TileGrid:
        """Lay tiles over a padded level of height x width px; raises PlanError when they cannot be laid."""
        if not 0 < stride < tile:
            raise PlanError(f"stride {stride} does not overlap tiles of {tile} px; choose a stride below {tile}")
        if not 0 <= 2 * margin <= tile - stride:
            most = (tile - stride) // 2
            raise PlanError(
                f"margin {margin} is more than half of the overlap of {tile - stride} px; choose 0 to {most}"
            )
        if height < tile or width < tile:
            raise PlanError(f"level {level} is {height}x{width} px, below one tile of {tile} px; pad it first")
        rows, cols = (_axis(length, tile, stride, margin, order) for length in (height, width))
        return cls(level, rows, cols, math.gcd(tile - 2 * margin, stride), corners)

    @property
    def cell_offset(self) -> int:
        """Pixels by which the cell lattice begins before the image, so that boundaries fall on it."""
        return -self.rows.margin % self.cell

    @property
    def stored_area(self) -> int:
        """Pixels of the working array: whole cells."""
        rows, cols = (-(-(axis.length + self.cell_offset) // self.cell) for axis in (self.rows, self.cols))
        return rows * cols * self.cell**2

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

    def settled(self, key: TileKey) -> tuple[int, int, int, int]:
        """Return the box y0, x0, y1, x1 within the window that is committed once the tile is; outside `owned`: pinned."""
        (y0, y1), (x0, x1) = self.rows.settled(key.row), self.cols.settled(key.col)
        return y0, x0, y1, x1

    def pinned(self, key: TileKey) -> list[tuple[int, int, int, int]]:
        """Return disjoint boxes y0, x0, y1, x1: the pixels of the window that are committed before the tile."""
        (y0, y1), (x0, x1) = self.rows.settled(key.row), self.cols.settled(key.col)
        (own_y0, own_y1), (own_x0, own_x1) = self.rows.owned(key.row), self.cols.owned(key.col)
        left, right = x0, x1
        for col in self.cols.children(key.col) if self.corners else ():
            lo, hi = self.cols.owned(col)
            left = min(left, max(lo, self.cols.start(key.col)))
            right = max(right, min(hi, self.cols.end(key.col)))
        found = [
            (y0, left, own_y0, right),
            (own_y1, left, y1, right),
            (own_y0, x0, own_y1, own_x0),
            (own_y0, own_x1, own_y1, x1),
        ]
        return [box for box in found if box[0] < box[2] and box[1] < box[3]]

    def parents(self, key: TileKey) -> list[TileKey]:
        """Return the tiles of this level that must be committed first (at most two)."""
        up, left = self.rows.parent(key.row), self.cols.parent(key.col)
        found = [] if up is None else [TileKey(self.level, up, col) for col in self.latest(key.col)]
        return found if left is None else [*found, TileKey(self.level, key.row, left)]

    def latest(self, col: int) -> list[int]:
        """Return the columns of the parent row that a tile waits for: those that have waited for all others."""
        return (self.cols.children(col) if self.corners else []) or [col]

    def children(self, key: TileKey) -> list[TileKey]:
        """Return the tiles of this level that wait for this one."""
        nearer = self.cols.parent(key.col) if self.corners else None
        cols = [] if nearer is None else [nearer]
        if self.latest(key.col) == [key.col]:
            cols.append(key.col)
        down = [TileKey(self.level, row, col) for row in self.rows.children(key.row) for col in cols]
        return down + [TileKey(self.level, key.row, col) for col in self.cols.children(key.col)]

    def depth(self, key: TileKey) -> int:
        """Return the number of tiles of this level on the longest chain before this one."""
        return self._rise * abs(key.row - self.rows.root) + abs(key.col - self.cols.root)

    @property
    def _rise(self) -> int:
        """Tiles on the longest chain from a tile's neighbour towards the root row to the tile."""
        return 2 if self.corners and self.cols.count > 1 else 1

    @property
    def longest_chain(self) -> int:
        """Number of tiles on the level's critical path."""
        rows, cols = (max(axis.root, axis.count - 1 - axis.root) for axis in (self.rows, self.cols))
        return 1 + self._rise * rows + cols

    def index(self, key: TileKey) -> int:
        return key.row * self.cols.count + key.col

    def key(self, index: int) -> TileKey:
        return TileKey(self.level, *divmod(index, self.cols.count))

    def keys(self) -> Iterator[TileKey]:
        return (self.key(i) for i in range(self.count))


def _axis(length: int, tile: int, stride: int, margin: int, order: str) -> AxisGrid:
    count = AxisGrid(length, tile, stride, margin, 0).count
    # (count - 1) // 2 is never the last tile of several: only the last one starts off the stride, and a root there
    # would put a boundary of owned boxes off the cell lattice.
    root = {"raster": 0, "centre": (count - 1) // 2}[order]
    return AxisGrid(length, tile, stride, margin, root)
