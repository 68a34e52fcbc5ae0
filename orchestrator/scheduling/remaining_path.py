"""How long the chain of tiles that are left is, kept up to date commit by commit. Memory: rows +
columns per level.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.parallelism import wave_sizes
from orchestrator.tiling.task_graph import TaskGraph


class RemainingPath:
    """Count the waves that are left: the tiles of one level and depth, none of which can run before
    the wave before it.

    Workers share the tiles of a wave, but not the waves: a run lasts at least `length` tiles,
    however many workers it has. Levels overlap in time, so the longest one counts.
    """

    def __init__(self, graph: TaskGraph, done: Iterable[TileKey] = ()) -> None:
        self._graph = graph
        self._waves: list[list[int]] = [wave_sizes(grid).tolist() for grid in graph.grids]
        self._left = [sum(size > 0 for size in sizes) for sizes in self._waves]
        self.committed(done)

    def committed(self, keys: Iterable[TileKey]) -> None:
        """Take committed tiles out of their waves."""
        for number in map(self._graph.number, keys):
            level, depth = self._graph.place(number)
            self._waves[level][depth] -= 1
            self._left[level] -= self._waves[level][depth] == 0

    @property
    def length(self) -> int:
        """Tiles on the longest chain that is left, to within the waves that have begun."""
        return max(self._left)
