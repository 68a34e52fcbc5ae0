"""TaskGraph: all levels' tiles and the edges between them, implicit; memory grows with rows +
columns only.

A tile waits for its neighbours of lower rank (orchestrator.tiling.grid), and for the coarser tiles
under its footprint: of those only the outermost, because a committed tile implies everything that
it waited for. Inside, a tile is a number: its index in its level's grid plus the tiles of the finer
levels. Whoever handles millions of tiles uses the numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from orchestrator.tiling.axis import AxisGrid
from orchestrator.tiling.grid import TileGrid, TileKey

# Coarse pixels around a tile's footprint that the bicubic start reads besides the guide itself (its
# support is 2).
GUIDE_MARGIN = 4


def guide_window(
    lo: int, hi: int, factor: int, coarse_length: int, margin: int = GUIDE_MARGIN
) -> tuple[int, int]:
    """Return the coarse interval under the fine interval [lo, hi), widened by the margin and kept
    inside.
    """
    return max(lo // factor - margin, 0), min(-(-hi // factor) + margin, coarse_length)


class _Successor(NamedTuple):
    """A tile that waits for another, along one axis."""

    offset: int
    """What to add to the number of the tile waited for."""
    parents: int
    """Tiles of its level that it waits for on this axis."""
    ups: int
    """Indices of the coarser level that it waits for on this axis."""
    awaited: int
    """Columns that it waits for in each parent row."""


@dataclass(slots=True)
class _AxisDependencies:
    """One axis of one level, looked up by index."""

    grid: AxisGrid
    ups: list[list[int]]
    """Indices of the coarser level that an index waits for; empty lists at the coarsest level."""
    parents: list[list[int]]
    awaited: list[list[int]]
    """Columns that a tile waits for in each parent row (TileGrid.awaited_columns); rows:
    themselves.
    """
    before: list[tuple[int, ...]]
    """The parents, as what to add to a tile's number."""
    beside: list[tuple[int, ...]]
    """Columns: the awaited ones of a parent row, as what to add to the number."""
    itself: list[tuple[_Successor]] = field(default_factory=list)
    """Rows: the index, for the tiles of its own row that wait for one."""
    within: list[tuple[_Successor, ...]] = field(default_factory=list)
    """Successors on this axis in the level itself; offsets are relative to the tile's own number.
    """
    under: list[tuple[_Successor, ...]] = field(default_factory=list)
    """Columns: the successors in each child row."""
    below: list[tuple[_Successor, ...]] = field(default_factory=list)
    """Successors in the finer level; offsets are relative to that level's first tile."""

    @classmethod
    def build(
        cls,
        grid: AxisGrid,
        coarse: AxisGrid | None,
        factor: int,
        weight: int,
        corners: TileGrid | None,
    ) -> _AxisDependencies:
        """weight: how far apart in number two neighbours on this axis are; corners: for columns,
        their grid.
        """
        indices = range(grid.count)
        awaited = [corners.awaited_columns(i) if corners else [i] for i in indices]
        parents = [grid.parents(i) for i in indices]
        axis = cls(
            grid=grid,
            ups=[_carriers(grid, i, coarse, factor) for i in indices],
            parents=parents,
            awaited=awaited,
            before=[tuple((j - i) * weight for j in parents[i]) for i in indices],
            beside=[tuple(j - i for j in awaited[i]) for i in indices],
        )
        axis.itself = [(axis._successor(i, 0),) for i in indices]
        axis.within = [
            tuple(axis._successor(j, (j - i) * weight) for j in grid.children(i)) for i in indices
        ]
        if corners:
            axis.under = [
                tuple(axis._successor(j, j - i) for j in corners.waiting_columns(i))
                for i in indices
            ]
        return axis

    def link(self, fine: _AxisDependencies, weight: int) -> None:
        """Record which tiles of the finer level wait for each index."""
        below: list[list[_Successor]] = [[] for _ in self.ups]
        for i, ups in enumerate(fine.ups):
            for j in ups:
                below[j].append(fine._successor(i, i * weight))
        self.below = [tuple(successors) for successors in below]

    def _successor(self, i: int, offset: int) -> _Successor:
        return _Successor(offset, len(self.parents[i]), len(self.ups[i]), len(self.awaited[i]))


def _carriers(grid: AxisGrid, i: int, coarse: AxisGrid | None, factor: int) -> list[int]:
    """Return the indices of the coarser level that a tile waits for on one axis."""
    if coarse is None:
        return []
    window = guide_window(grid.start(i), grid.end(i), factor, coarse.length)
    return coarse.carriers(*window)


def _pairs(
    base: int, rows: Iterable[_Successor], cols: Iterable[_Successor]
) -> list[tuple[int, int]]:
    """Return the tiles at every row and column, each with the number of tiles that it waits for.

    Those are, in its level, the awaited columns of every parent row and the parents in its own row;
    in the coarser level, every row that it waits for times every column.
    """
    return [
        (base + down + across, above * awaited + beside + row_ups * col_ups)
        for down, above, row_ups, _ in rows
        for across, beside, col_ups, awaited in cols
    ]


@dataclass(slots=True)
class _Level:
    """One level's tables."""

    base: int
    """Number of the level's first tile."""
    columns: int
    rows: _AxisDependencies
    cols: _AxisDependencies
    finer: int
    """Number of the finer level's first tile."""
    rise: int
    """TileGrid.rise."""


class TaskGraph:
    """Dependencies of all tiles; `grids[k]` is level k, `factor` the ratio between levels."""

    def __init__(self, grids: Sequence[TileGrid], factor: int) -> None:
        self.grids = tuple(grids)
        self.bases = list(accumulate((grid.count for grid in self.grids[:-1]), initial=0))
        self.count = sum(grid.count for grid in self.grids)
        self._columns = [grid.cols.count for grid in self.grids]
        self._levels: list[_Level] = []
        for k, grid in enumerate(self.grids):
            coarse = self.grids[k + 1] if k + 1 < len(self.grids) else None
            columns = grid.cols.count
            rows = _AxisDependencies.build(
                grid.rows, coarse.rows if coarse else None, factor, columns, None
            )
            cols = _AxisDependencies.build(
                grid.cols, coarse.cols if coarse else None, factor, 1, grid
            )
            if k > 0:
                finer = self._levels[-1]
                rows.link(finer.rows, finer.columns)
                cols.link(finer.cols, 1)
            self._levels.append(
                _Level(self.bases[k], columns, rows, cols, self.bases[max(k - 1, 0)], grid.rise)
            )

    def number(self, key: TileKey) -> int:
        level, row, col = key
        return self.bases[level] + row * self._columns[level] + col

    def key(self, number: int) -> TileKey:
        level = bisect_right(self.bases, number) - 1
        row, col = divmod(number - self.bases[level], self._columns[level])
        return TileKey(level, row, col)

    def level(self, number: int) -> int:
        return bisect_right(self.bases, number) - 1

    def place(self, number: int) -> tuple[int, int]:
        """Return a tile's level and its depth: the number of tiles of its level on the longest
        chain before it.
        """
        k = bisect_right(self.bases, number) - 1
        level = self._levels[k]
        row, col = divmod(number - level.base, level.columns)
        return k, level.rise * level.rows.grid.ranks[row] + level.cols.grid.ranks[col]

    def waiting(self, number: int) -> list[tuple[int, int]]:
        """Return the tiles that wait for a tile, each with the number of tiles that it waits for
        itself.
        """
        level = self._levels[bisect_right(self.bases, number) - 1]
        row, col = divmod(number - level.base, level.columns)
        rows = level.rows
        cols = level.cols
        waiting = _pairs(number, rows.within[row], cols.under[col])
        if cols.within[col]:
            waiting += _pairs(number, rows.itself[row], cols.within[col])
        if rows.below:
            waiting += _pairs(level.finer, rows.below[row], cols.below[col])
        return waiting

    def fan_out(self, number: int) -> int:
        """Return how many tiles wait for a tile."""
        level = self._levels[bisect_right(self.bases, number) - 1]
        row, col = divmod(number - level.base, level.columns)
        rows = level.rows
        cols = level.cols
        below = len(rows.below[row]) * len(cols.below[col]) if rows.below else 0
        return len(rows.within[row]) * len(cols.under[col]) + len(cols.within[col]) + below

    def awaited(self, number: int) -> list[int]:
        """Return the tiles that must be committed before a tile may run."""
        k = bisect_right(self.bases, number) - 1
        level = self._levels[k]
        row, col = divmod(number - level.base, level.columns)
        rows = level.rows
        cols = level.cols
        awaited = [number + up + side for up in rows.before[row] for side in cols.beside[col]]
        awaited += [number + side for side in cols.before[col]]
        if k + 1 < len(self._levels):
            coarse = self._levels[k + 1]
            ups = cols.ups[col]
            awaited += [coarse.base + i * coarse.columns + j for i in rows.ups[row] for j in ups]
        return awaited

    def predecessors(self, key: TileKey) -> list[TileKey]:
        """Return the tiles that must be committed before `key` may run."""
        return [self.key(number) for number in self.awaited(self.number(key))]

    def successors(self, key: TileKey) -> list[TileKey]:
        """Return the tiles that wait for `key`."""
        return [self.key(number) for number, _ in self.waiting(self.number(key))]

    def roots(self) -> Iterator[int]:
        """Yield the tiles that wait for nobody, ascending: only the coarsest level has any."""
        level = self._levels[-1]
        cols = level.cols.grid.roots
        return (
            level.base + row * level.columns + col for row in level.rows.grid.roots for col in cols
        )

    def coarser_indices(self, level: int) -> tuple[list[list[int]], list[list[int]]]:
        """Return per row and per column of a level the rows and columns of the coarser level that
        it waits for.
        """
        return self._levels[level].rows.ups, self._levels[level].cols.ups
