"""CellLifetime: which super-blocks may be published now, and which tiles' cells nobody needs any
more. A pure state machine.

Events in: `committed`, `published`; answers: what to do next. No I/O, no clock. Memory: a byte per
tile and per block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from orchestrator.scheduling.frontier import Frontier
from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.superblocks import Published, SuperBlocks
from orchestrator.tiling.task_graph import TaskGraph

# Tiles of a coarser level that may wait to guide before finer ones go first: 0.8 GB of RGB cells of
# 128 px.
AHEAD = 4096

Block = tuple[int, int]
"""Row and column of a super-block."""
_OPEN, _ASKED, _PUBLISHED = range(3)


class CellLifetime:
    """Follow a frontier. A block is answered once, a tile is freed once."""

    def __init__(
        self, blocks: SuperBlocks, frontier: Frontier, published: Iterable[Block], *, reclaim: bool
    ) -> None:
        """published: blocks that are there already. reclaim: whether cells are freed at all."""
        self._blocks = blocks
        self._frontier = frontier
        self._reclaim = reclaim
        self._columns = blocks.shape[1]
        self._states = bytearray(blocks.shape[0] * self._columns)
        self._freed = bytearray(frontier.graph.count)
        for block in published:
            self._states[self._number(block)] = _PUBLISHED

    def resumed(self) -> tuple[list[Block], Iterator[TileKey]]:
        """Return the blocks to publish, and the tiles whose cells are free, at the start of an
        attempt.
        """
        graph = self._frontier.graph
        return self._ready(self._all_blocks()), self._free(map(graph.key, range(graph.count)))

    def committed(self, keys: Sequence[TileKey]) -> tuple[list[Block], list[TileKey]]:
        """Return the blocks to publish and the tiles that are free now that the frontier knows
        these as committed.
        """
        touched = dict.fromkeys(
            block for key in keys if key.level == 0 for block in self._blocks.blocks(key)
        )
        read = (before for key in keys for before in self._blocks.freed_by(key))
        return self._ready(touched), list(self._free(read))

    def published(self, block: Block) -> list[TileKey]:
        """Return the tiles that are free now that a block is durable."""
        self._states[self._number(block)] = _PUBLISHED
        rows, cols = self._blocks.tiles(*block)
        return list(self._free(TileKey(0, row, col) for row in rows for col in cols))

    def left(self) -> list[Block]:
        """Return the blocks that have not been answered yet; for the end of a run, when all tiles
        are committed.
        """
        return self._ready(self._all_blocks())

    def _all_blocks(self) -> Iterator[Block]:
        return (divmod(number, self._columns) for number in range(len(self._states)))

    def _number(self, block: Block) -> int:
        return block[0] * self._columns + block[1]

    def _ready(self, blocks: Iterable[Block]) -> list[Block]:
        ready = []
        for block in blocks:
            number = self._number(block)
            if self._states[number] != _OPEN:
                continue
            if self._blocks.complete(*block, self._frontier.all_done):
                self._states[number] = _ASKED
                ready.append(block)
        return ready

    def _free(self, keys: Iterable[TileKey]) -> Iterator[TileKey]:
        if not self._reclaim:
            return
        for key in keys:
            number = self._frontier.graph.number(key)
            if self._freed[number]:
                continue
            if self._blocks.free(key, self._frontier.all_done, self._is_published):
                self._freed[number] = 1
                self._frontier.freed([key])
                yield key

    def _is_published(self, row: int, col: int) -> bool:
        return self._states[self._number((row, col))] == _PUBLISHED


def surviving(
    blocks: SuperBlocks,
    graph: TaskGraph,
    done: Sequence[TileKey],
    stored: Callable[[TileKey], bool],
    published: Published,
) -> list[TileKey]:
    """Return the journaled tiles that need no second try: their cells are `stored`, or nobody reads
    them again.

    A tile whose cells are lost is restored again, and needs the cells of those it reads: they may
    be deleted by then, and those tiles are restored again too, back to what is still there.
    """
    committed = bytearray(graph.count)
    missing = bytearray(graph.count)
    columns = [grid.cols.count for grid in graph.grids]
    for key in done:
        number = graph.number(key)
        committed[number] = 1
        missing[number] = not stored(key)

    def all_committed(level: int, rows: range, cols: range) -> bool:
        starts = (graph.bases[level] + row * columns[level] + cols.start for row in rows)
        return all(committed.count(1, start, start + len(cols)) == len(cols) for start in starts)

    suspects = [key for key in done if missing[graph.number(key)]]
    while suspects:
        key = suspects.pop()
        number = graph.number(key)
        if not committed[number] or blocks.free(key, all_committed, published):
            continue
        committed[number] = 0
        suspects += [before for before in blocks.freed_by(key) if missing[graph.number(before)]]
    return [key for key in done if committed[graph.number(key)]]
