"""How deep a task graph is, and how many of its tiles can run at a time: row by row, by segmented
running maxima.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.tiling.axis import AxisGrid
from orchestrator.tiling.grid import TileGrid
from orchestrator.tiling.hierarchy import FACTOR
from orchestrator.tiling.task_graph import TaskGraph

Lengths = NDArray[np.int64]
# Workers x batch that a graph keeps busy, as a share of its mean parallelism (design: efficiency
# 0.95 up to here).
BUSY_SHARE = 0.75
# Above this many tiles the levels are taken one after the other instead of tile by tile (a bound,
# not exact).
EXACT_TILES = 8_000_000


@dataclass(frozen=True, slots=True)
class Parallelism:
    """A graph run with unlimited workers, a tile taking one unit of time."""

    depth: int
    """Tiles on the longest chain."""
    tiles: int
    peak: int
    """Most tiles that run at the same time."""

    @property
    def mean(self) -> float:
        return self.tiles / self.depth

    def useful_workers(self, batch: int) -> int:
        """Return how many workers the graph keeps busy with batches of a size; more would mostly
        wait.
        """
        return max(1, int(BUSY_SHARE * self.mean / batch))


def waves(grids: Sequence[TileGrid]) -> Parallelism:
    """Count the tiles that unlimited workers would run in each unit of time.

    Exact up to EXACT_TILES tiles; above that depth is an upper bound and peak a lower one: levels
    one after the other.
    """
    tiles = sum(grid.count for grid in grids)
    if tiles > EXACT_TILES:
        sizes = [wave_sizes(grid) for grid in grids]
        return Parallelism(sum(map(len, sizes)), tiles, max(int(size.max()) for size in sizes))
    sizes = [np.bincount(lengths.ravel()) for lengths in _chains(grids, [1] * len(grids))]
    depth = max(map(len, sizes)) - 1
    total = sum(np.pad(size, (0, depth + 1 - len(size))) for size in sizes)
    return Parallelism(depth, tiles, int(np.max(total)))


def wave_sizes(grid: TileGrid) -> Lengths:
    """Return the number of a level's tiles at each depth."""
    rows = np.bincount(np.array(grid.rows.ranks) * grid.rise)
    return np.asarray(np.convolve(rows, np.bincount(grid.cols.ranks)), np.int64)


def critical_path(grids: Sequence[TileGrid], weights: Sequence[int] | None = None) -> int:
    """Return the greatest sum of weights along a dependency chain through all levels; by default
    its tiles.

    weights: per level what a tile counts, for example its network evaluations. Above EXACT_TILES
    tiles an upper bound.
    """
    weights = weights or [1] * len(grids)
    if sum(grid.count for grid in grids) > EXACT_TILES:
        return sum(grid.longest_chain * weight for grid, weight in zip(grids, weights, strict=True))
    return max(int(lengths.max()) for lengths in _chains(grids, weights))


def _chains(grids: Sequence[TileGrid], weights: Sequence[int]) -> list[Lengths]:
    """Return per level and tile the greatest weight of a chain that ends with it, coarsest level
    first.
    """
    graph = TaskGraph(grids, FACTOR)
    chains: list[Lengths] = []
    for grid, weight in zip(reversed(grids), reversed(weights), strict=True):
        chains.append(_level(grid, weight, _under(graph, grid, chains[-1] if chains else None)))
    return chains


def _under(graph: TaskGraph, grid: TileGrid, coarse: Lengths | None) -> Lengths:
    """Return per tile the longest chain of the coarser tiles that it waits for."""
    shape = (grid.rows.count, grid.cols.count)
    before = np.zeros(shape, dtype=np.int64)
    if coarse is not None:
        up_rows, up_cols = graph.coarser_indices(grid.level)
        most = max(map(len, up_cols))
        # Every column's coarser columns, the last one repeated.
        table = np.array([[*ups, *[ups[-1]] * (most - len(ups))] for ups in up_cols])
        for row in range(shape[0]):
            before[row] = coarse[up_rows[row]].max(axis=0)[table].max(axis=1)
    return before


def _level(grid: TileGrid, weight: int, before: Lengths) -> Lengths:
    """Add a level's own edges; `before` becomes the result."""
    rows = grid.rows
    # Per column the first and the last of the columns that it waits for in a parent row.
    awaited = [
        [grid.awaited_columns(col)[end] for col in range(grid.cols.count)] for end in (0, -1)
    ]
    along = _Along.build(grid.cols, weight, int(before.max()) + weight * grid.longest_chain)
    for row in sorted(range(rows.count), key=rows.ranks.__getitem__):
        behind = [before[parent, cols] for parent in rows.parents(row) for cols in awaited]
        before[row] = along.longest(np.max([before[row], *behind], axis=0)) + weight
    return before


@dataclass(frozen=True, slots=True)
class _Along:
    """The recursion along one row, as running maxima to the right and left that begin anew where no
    edge leads on.
    """

    right: Lengths
    left: Lengths

    @classmethod
    def build(cls, axis: AxisGrid, weight: int, greatest: int) -> _Along:
        """greatest: no chain is longer."""
        ranks = np.array(axis.ranks)
        index = np.arange(axis.count)
        rises = np.concatenate(([False], ranks[1:] > ranks[:-1]))
        falls = np.concatenate((ranks[:-1] > ranks[1:], [False]))
        # Segments lie this far apart in value, so that a maximum never comes from an earlier one.
        apart = greatest + weight * axis.count + 1
        right = np.cumsum(~rises) * apart - index * weight
        left = np.cumsum((~falls)[::-1])[::-1] * apart + index * weight
        return cls(right, left)

    def longest(self, own: Lengths) -> Lengths:
        """Return per column the greatest of own[j] + weight * steps from j, over the columns j that
        lead to it.
        """
        right = np.maximum.accumulate(own + self.right) - self.right
        left = np.maximum.accumulate((own + self.left)[::-1])[::-1] - self.left
        return np.maximum(right, left)
