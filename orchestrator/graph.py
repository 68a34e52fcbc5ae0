"""TaskGraph: all levels' tiles and the edges between them, implicit; memory grows with rows + columns only.

A fine tile waits for its two neighbours towards the root (orchestrator.grid), and for the coarser tiles under its
footprint: of those only the outermost, because a committed tile implies its whole chain back to the root.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.grid import AxisGrid, TileGrid, TileKey

# Coarse pixels around a tile's footprint that the bicubic start reads besides the guide itself (its support is 2).
GUIDE_MARGIN = 4


def guide_window(lo: int, hi: int, factor: int, coarse_length: int, margin: int = GUIDE_MARGIN) -> tuple[int, int]:
    """Return the coarse interval under the fine interval [lo, hi), widened by the margin and kept inside."""
    return max(lo // factor - margin, 0), min(-(-hi // factor) + margin, coarse_length)


@dataclass(slots=True)
class _AxisLink:
    """Edges between one axis of a level and the same axis of the next coarser level."""

    up: list[list[int]]
    """Per fine index: the coarse indices that it waits for."""
    down: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Per coarse index: the fine indices that wait for it."""

    @classmethod
    def build(cls, fine: AxisGrid, coarse: AxisGrid, factor: int) -> _AxisLink:
        link = cls(up=[])
        for i in range(fine.count):
            lo, hi = guide_window(fine.start(i), fine.end(i), factor, coarse.length)
            link.up.append(coarse.carriers(lo, hi))
            for j in link.up[-1]:
                link.down[j].append(i)
        return link


class TaskGraph:
    """Dependencies of all tiles; `grids[k]` is level k, `factor` the ratio between levels."""

    def __init__(self, grids: Sequence[TileGrid], factor: int) -> None:
        self.grids = tuple(grids)
        self._links = [
            (_AxisLink.build(fine.rows, coarse.rows, factor), _AxisLink.build(fine.cols, coarse.cols, factor))
            for fine, coarse in zip(self.grids, self.grids[1:], strict=False)
        ]

    @property
    def count(self) -> int:
        return sum(grid.count for grid in self.grids)

    def predecessors(self, key: TileKey) -> list[TileKey]:
        """Return the tiles that must be committed before `key` may run."""
        return self.grids[key.level].parents(key) + self._coarser(key)

    def successors(self, key: TileKey) -> list[TileKey]:
        """Return the tiles that wait for `key`."""
        found = self.grids[key.level].children(key)
        if key.level > 0:
            rows, cols = self._links[key.level - 1]
            found += [
                TileKey(key.level - 1, row, col)
                for row in rows.down.get(key.row, ())
                for col in cols.down.get(key.col, ())
            ]
        return found

    def roots(self) -> list[TileKey]:
        """Return the tiles that wait for nobody: the coarsest level's root (every finer tile waits for a coarser one)."""
        grid = self.grids[-1]
        return [TileKey(grid.level, grid.rows.root, grid.cols.root)]

    def coarser_indices(self, level: int) -> tuple[list[list[int]], list[list[int]]]:
        """Return per row and per column of a level the rows and columns of the coarser level that it waits for."""
        rows, cols = self._links[level]
        return rows.up, cols.up

    def _coarser(self, key: TileKey) -> list[TileKey]:
        if key.level + 1 >= len(self.grids):
            return []
        rows, cols = self._links[key.level]
        return [TileKey(key.level + 1, row, col) for row in rows.up[key.row] for col in cols.up[key.col]]
