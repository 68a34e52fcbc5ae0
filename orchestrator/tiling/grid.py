"""Tile geometry: where tiles lie, which pixels each one owns, which tiles it waits for. Pure
integers, O(1) per tile.

In two dimensions everything is a product of two axes (orchestrator.tiling.axis). A tile waits for
its neighbours of lower rank in its column and in its row, at most two of each; those and theirs
have committed every pinned pixel of its window, for a pinned pixel's owner has no higher rank on
either axis, and lies in an unbroken descent on each.

Where measurements overlap (`corners`), no two tiles that share one may be restored unaware of each
other: a tile then waits for the tiles diagonally behind it too, away from the root column, and what
they committed is pinned as well. It still waits for two at most, since those have waited for its
neighbour towards the root row; the depth in rows doubles. That is for the orders raster and centre,
in which each axis has one root.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.errors import PlanError
from orchestrator.tiling.axis import BLOCK, AxisGrid


class TileKey(NamedTuple):
    """A tile's name: restoration level (0 = full size), row and column in that level's grid."""

    level: int
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of one level."""

    level: int
    rows: AxisGrid
    cols: AxisGrid
    cell: int
    """Side of the working array's cells, px: the greatest that puts every boundary between owned
    boxes on a lattice.
    """
    corners: bool = False
    """Whether a tile sees everything that was committed under its window, the corners of the window
    included.
    """

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
        block: int = BLOCK,
        *,
        corners: bool = False,
    ) -> TileGrid:
        """Lay tiles over a padded level of height x width px; raises PlanError when they cannot be
        laid.

        block: tiles along the side of a block, for the order bridge.
        """
        if not 0 < stride < tile:
            raise PlanError(
                f"stride {stride} does not overlap tiles of {tile} px; choose a stride below {tile}"
            )
        if not 0 <= 2 * margin <= tile - stride:
            most = (tile - stride) // 2
            raise PlanError(
                f"margin {margin} is more than half of the overlap of {tile - stride} px; choose "
                f"0 to {most}"
            )
        if corners and order not in ("raster", "centre"):
            raise PlanError(
                f"order {order} would restore tiles that share a measurement apart from each "
                "other; "
                "choose --order raster or centre for this task"
            )
        if height < tile or width < tile:
            raise PlanError(
                f"level {level} is {height}x{width} px, below one tile of {tile} px; pad it first"
            )
        rows, cols = (
            AxisGrid.build(length, tile, stride, margin, order, block) for length in (height, width)
        )
        return cls(level, rows, cols, math.gcd(tile - 2 * margin, stride), corners)

    @property
    def cell_offset(self) -> int:
        """Pixels by which the cell lattice begins before the image, so that boundaries
        fall on it.
        """
        return -self.rows.margin % self.cell

    @property
    def stored_area(self) -> int:
        """Pixels of the working array: whole cells."""
        rows, cols = (
            -(-(axis.length + self.cell_offset) // self.cell) for axis in (self.rows, self.cols)
        )
        return rows * cols * self.cell**2

    @property
    def count(self) -> int:
        return self.rows.count * self.cols.count

    def box(self, key: TileKey) -> tuple[int, int, int, int]:
        """Return the tile's window y0, x0, y1, x1 in px of the padded level."""
        y0 = self.rows.start(key.row)
        x0 = self.cols.start(key.col)
        return y0, x0, y0 + self.rows.tile, x0 + self.cols.tile

    def owned(self, key: TileKey) -> tuple[int, int, int, int]:
        """Return the box y0, x0, y1, x1 that the tile writes; owned boxes partition the level."""
        (y0, y1), (x0, x1) = self.rows.owned(key.row), self.cols.owned(key.col)
        return y0, x0, y1, x1

    def settled(self, key: TileKey) -> tuple[int, int, int, int]:
        """Return the box y0, x0, y1, x1 within the window committed once the tile is; outside
        `owned`: pinned.
        """
        (y0, y1), (x0, x1) = self.rows.settled(key.row), self.cols.settled(key.col)
        return y0, x0, y1, x1

    def pinned(self, key: TileKey) -> list[tuple[int, int, int, int]]:
        """Return disjoint boxes y0, x0, y1, x1: the pixels of the window that are committed before
        the tile.
        """
        (y0, y1), (x0, x1) = self.rows.settled(key.row), self.cols.settled(key.col)
        (own_y0, own_y1), (own_x0, own_x1) = self.rows.owned(key.row), self.cols.owned(key.col)
        left = x0
        right = x1
        for col in self.cols.children(key.col) if self.corners else ():
            lo, hi = self.cols.owned(col)
            left = min(left, max(lo, self.cols.start(key.col)))
            right = max(right, min(hi, self.cols.end(key.col)))
        strips = [
            (y0, left, own_y0, right),
            (own_y1, left, y1, right),
            (own_y0, x0, own_y1, own_x0),
            (own_y0, own_x1, own_y1, x1),
        ]
        return [box for box in strips if box[0] < box[2] and box[1] < box[3]]

    def parents(self, key: TileKey) -> list[TileKey]:
        """Return the tiles of this level that must be committed first (at most two; four for a
        bridge).
        """
        cols = self.awaited_columns(key.col)
        up = [TileKey(self.level, row, col) for row in self.rows.parents(key.row) for col in cols]
        return up + [TileKey(self.level, key.row, col) for col in self.cols.parents(key.col)]

    def children(self, key: TileKey) -> list[TileKey]:
        """Return the tiles of this level that wait for this one."""
        cols = self.waiting_columns(key.col)
        down = [
            TileKey(self.level, row, col) for row in self.rows.children(key.row) for col in cols
        ]
        return down + [TileKey(self.level, key.row, col) for col in self.cols.children(key.col)]

    def awaited_columns(self, col: int) -> list[int]:
        """Return the columns of a parent row that a tile waits for: those that have waited for all
        others.
        """
        return (self.cols.children(col) if self.corners else []) or [col]

    def waiting_columns(self, col: int) -> list[int]:
        """Return the columns whose tiles in a child row wait for a tile: `col` is among their
        `awaited_columns`.
        """
        nearer = self.cols.parents(col) if self.corners else []
        return [*nearer, *([col] if self.awaited_columns(col) == [col] else [])]

    @property
    def rise(self) -> int:
        """Tiles on the longest chain from a tile's neighbour in the parent row to the tile."""
        return 2 if self.corners and self.cols.count > 1 else 1

    @property
    def longest_chain(self) -> int:
        """Number of tiles on the level's critical path."""
        return 1 + self.rise * max(self.rows.ranks) + max(self.cols.ranks)

    @property
    def roots(self) -> list[TileKey]:
        """Return the tiles that wait for nobody in this level, in order of their indices."""
        return [TileKey(self.level, row, col) for row in self.rows.roots for col in self.cols.roots]

    def index(self, key: TileKey) -> int:
        return key.row * self.cols.count + key.col

    def key(self, index: int) -> TileKey:
        return TileKey(self.level, *divmod(index, self.cols.count))

    def keys(self) -> Iterator[TileKey]:
        return (self.key(i) for i in range(self.count))
