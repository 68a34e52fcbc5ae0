"""Which tiles a published shard waits for, and until when a tile's cells are read. Pure integers,
tables per axis.

A super-block is the part of the output under one shard of the published level 0. It can be written
once all tiles that own a pixel of it are committed. A tile's cells can be deleted once nobody will
read them again:

    who reads a tile's cells                                     until
    the tiles of its level whose window holds some, pinned       they are committed
    the tiles of the finer level that it guides                  they are committed
    level 0: the super-blocks that hold some of its pixels       they are published

Each of these is a product of an interval of rows and an interval of columns, because windows and
boxes are. Intervals may hold a tile too many (of an order that skips), which only keeps a cell
longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.tiling.axis import AxisGrid
from orchestrator.tiling.grid import TileGrid, TileKey
from orchestrator.tiling.task_graph import guide_window
from storage.box import Box

Committed = Callable[[int, range, range], bool]
"""Whether all tiles of (level, rows, columns) are committed."""
Published = Callable[[int, int], bool]
"""Whether super-block (row, column) is published."""
SIDE = 2048
"""Side of a super-block, px: a shard of the published image."""
_NONE = range(0)


@dataclass(frozen=True, slots=True)
class _BlockAxis:
    """One axis of one level; every table has one interval per tile index."""

    reads: list[range]
    """Tiles of the level whose cells a tile reads, with itself."""
    read_by: list[range]
    guided_by: list[range]
    """Tiles of the coarser level whose cells a tile reads; empty at the coarsest level."""
    guides: list[range]
    """Tiles of the finer level that read a tile's cells; empty at level 0."""
    blocks: list[range]
    """Super-blocks that hold pixels of a tile; empty above level 0 and in the padding."""

    @classmethod
    def build(
        cls,
        grid: AxisGrid,
        finer: AxisGrid | None,
        coarser: AxisGrid | None,
        factor: int,
        valid: int,
        side: int,
        *,
        corners: bool,
    ) -> _BlockAxis:
        """corners: for columns, whether a tile sees all that is committed under its window
        (TileGrid.corners).

        valid: length of the published image along the axis, px; 0 above level 0. side: of a
        super-block, px.
        """
        tiles = range(grid.count)
        reads = [_owners(grid, *_seen(grid, i, corners=corners)) for i in tiles]
        return cls(
            reads=reads,
            read_by=_inverse(reads, grid.count),
            guided_by=_guided_by(grid, coarser, factor) if coarser else [_NONE] * grid.count,
            guides=_inverse(_guided_by(finer, grid, factor), grid.count)
            if finer
            else [_NONE] * grid.count,
            blocks=[_cut(*grid.owned(i), side, valid) for i in tiles],
        )


class SuperBlocks:
    """The geometry of publishing while restoring."""

    def __init__(
        self, grids: Sequence[TileGrid], factor: int, size: tuple[int, int], side: tuple[int, int]
    ) -> None:
        """grids: levels, finest first. size: of the published image (height, width), px. side: of a
        super-block.
        """
        self._grids = tuple(grids)
        self._size = size
        self._side = side
        self._axes: list[tuple[_BlockAxis, _BlockAxis]] = []
        for k, grid in enumerate(self._grids):
            near = {
                step: self._grids[k + step] for step in (-1, 1) if 0 <= k + step < len(self._grids)
            }
            valid = size if k == 0 else (0, 0)
            rows = {step: other.rows for step, other in near.items()}
            cols = {step: other.cols for step, other in near.items()}
            self._axes.append(
                (
                    _BlockAxis.build(
                        grid.rows,
                        rows.get(-1),
                        rows.get(1),
                        factor,
                        valid[0],
                        side[0],
                        corners=False,
                    ),
                    _BlockAxis.build(
                        grid.cols,
                        cols.get(-1),
                        cols.get(1),
                        factor,
                        valid[1],
                        side[1],
                        corners=grid.corners,
                    ),
                )
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of super-blocks (down, across)."""
        return -(-self._size[0] // self._side[0]), -(-self._size[1] // self._side[1])

    def box(self, row: int, col: int) -> Box:
        """Return the output pixels of a super-block."""
        height, width = self._side
        return Box(row * height, col * width, (row + 1) * height, (col + 1) * width).clip(
            *self._size
        )

    def blocks(self, key: TileKey) -> Iterator[tuple[int, int]]:
        """Yield the super-blocks that hold pixels of a tile; none above level 0."""
        rows, cols = self._axes[key.level]
        return ((row, col) for row in rows.blocks[key.row] for col in cols.blocks[key.col])

    def tiles(self, row: int, col: int) -> tuple[range, range]:
        """Return the rows and columns of the level 0 tiles that own pixels of a super-block."""
        box = self.box(row, col)
        grid = self._grids[0]
        return _owners(grid.rows, box.y0, box.y1), _owners(grid.cols, box.x0, box.x1)

    def complete(self, row: int, col: int, committed: Committed) -> bool:
        """Tell whether all pixels of a super-block are committed."""
        return committed(0, *self.tiles(row, col))

    def free(self, key: TileKey, committed: Committed, published: Published) -> bool:
        """Tell whether nobody will read a tile's cells again (the tile itself is
        committed then).
        """
        rows, cols = self._axes[key.level]
        if not committed(key.level, rows.read_by[key.row], cols.read_by[key.col]):
            return False
        if key.level > 0:
            return committed(key.level - 1, rows.guides[key.row], cols.guides[key.col])
        return all(published(row, col) for row, col in self.blocks(key))

    def freed_by(self, key: TileKey) -> Iterator[TileKey]:
        """Yield the tiles whose cells a tile reads: those that its commit may free."""
        rows, cols = self._axes[key.level]
        k = key.level
        yield from (
            TileKey(k, row, col) for row in rows.reads[key.row] for col in cols.reads[key.col]
        )
        yield from (
            TileKey(k + 1, row, col)
            for row in rows.guided_by[key.row]
            for col in cols.guided_by[key.col]
        )

    def readers(self, key: TileKey) -> Iterator[TileKey]:
        """Yield the tiles that read a tile's cells, with itself."""
        rows, cols = self._axes[key.level]
        k = key.level
        yield from (
            TileKey(k, row, col) for row in rows.read_by[key.row] for col in cols.read_by[key.col]
        )
        yield from (
            TileKey(k - 1, row, col) for row in rows.guides[key.row] for col in cols.guides[key.col]
        )


def _seen(grid: AxisGrid, i: int, *, corners: bool) -> tuple[int, int]:
    """Return the pixels of a tile's window that it may find committed; see `TileGrid.pinned`."""
    return (grid.start(i), grid.end(i)) if corners else grid.settled(i)


def _owners(grid: AxisGrid, lo: int, hi: int) -> range:
    """Return the tiles that own pixels of [lo, hi)."""
    return range(grid.owner(lo), grid.owner(hi - 1) + 1)


def _guided_by(fine: AxisGrid, coarse: AxisGrid, factor: int) -> list[range]:
    windows = (
        guide_window(fine.start(i), fine.end(i), factor, coarse.length) for i in range(fine.count)
    )
    return [_owners(coarse, lo, hi) for lo, hi in windows]


def _inverse(table: list[range], count: int) -> list[range]:
    """Return per entry the smallest interval of indices whose intervals hold it."""
    firsts = [len(table)] * count
    lasts = [-1] * count
    for i, held in enumerate(table):
        for j in held:
            firsts[j], lasts[j] = min(firsts[j], i), max(lasts[j], i)
    return [range(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]


def _cut(lo: int, hi: int, side: int, valid: int) -> range:
    """Return the super-blocks of [lo, hi), as far as it lies in the image."""
    return range(lo // side, -(-min(hi, valid) // side)) if lo < valid else _NONE
