"""Frontier: which tiles may run now. A pure state machine: no I/O, no Ray, no clock, no randomness.

A tile is waiting (a predecessor is missing), ready, running, reported or done; a tile that failed
too often is given up, and its successors then never become ready. Events in: `take`, `reported`,
`committed`, `returned`, `failed`. Memory: one byte per tile plus the ready set; nothing is computed
for a tile before a predecessor of it is reported.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.task_graph import TaskGraph

# Two failures in company are a suspicion: then alone, so that one poison tile cannot drag a batch
# along, and only what fails alone counts; after three of those given up.
SOLO_AFTER = 2
QUARANTINE_AFTER = SOLO_AFTER + 3
# How often filling a tile instead may fail.
FILL_TRIES = 2

# A tile's byte; above COUNTING it is waiting too, and the excess is the number of predecessors that
# are missing.
WAITING, READY, RUNNING, REPORTED, DONE, GIVEN_UP, COUNTING = range(7)


class Frontier:
    """The dependency state machine over a TaskGraph.

    Ready tiles are handed out coarsest level first (they unlock most), then nearest to the root
    first (they have the longest chains behind them), then by row and column: a total order, so the
    same events always give the same answers. The methods that end in _numbers take and give the
    graph's numbers, the others keys.
    """

    def __init__(
        self,
        graph: TaskGraph,
        done: Iterable[TileKey] = (),
        *,
        fill: bool = False,
        ahead: int | None = None,
    ) -> None:
        """fill: a tile that failed too often is handed out once more, to be filled rather than
        restored.

        ahead: so many tiles of a coarser level may be committed and not `freed` before finer ones
        go first.
        """
        self.graph = graph
        self._fill = fill
        self._to_fill: set[int] = set()
        self.total = graph.count
        self.done = 0
        self.ready = 0
        """Tiles that may run now."""
        self.running = 0
        self.recording = 0
        """Tiles whose pixels are on the disk and whose records are on their way there."""
        self.given_up: dict[TileKey, str] = {}
        self._failures: dict[int, int] = {}
        self._states = bytearray(graph.count)
        # Per level a heap of depth * total + number.
        self._heaps: list[list[int]] = [[] for _ in graph.grids]
        self._solo: list[int] = []
        self._ahead = ahead
        self._kept = [0] * len(graph.grids)
        for key in done:
            number = graph.number(key)
            if self._states[number] != DONE:
                self.done += 1
                self._kept[key.level] += 1
            self._states[number] = DONE
        for number in graph.roots():
            if self._states[number] == WAITING:
                self._states[number] = READY
                self._heaps[-1].append(number)  # ascending, all of depth 0: a heap
                self.ready += 1
        for number in self._find(DONE):
            self._release_after(number)

    def _find(self, state: int) -> Iterator[int]:
        number = self._states.find(state)
        while number >= 0:
            yield number
            number = self._states.find(state, number + 1)

    def _release_after(self, number: int) -> None:
        """Count a finished tile at those that wait for it; each edge is counted once, when its
        first end is done.
        """
        states = self._states
        for waiting, predecessors in self.graph.waiting(number):
            state = states[waiting]
            if state == WAITING:
                missing = predecessors - 1
            elif state > COUNTING:
                missing = state - COUNTING - 1
            else:
                continue
            if missing:
                states[waiting] = COUNTING + missing
            else:
                self._push(waiting)

    def _push(self, number: int) -> None:
        self._states[number] = READY
        self.ready += 1
        level, depth = self.graph.place(number)
        heapq.heappush(self._heaps[level], depth * self.total + number)

    def finished_keys(self) -> Iterator[TileKey]:
        """Yield the tiles that are done."""
        return map(self.graph.key, self._find(DONE))

    @property
    def suspects(self) -> int:
        """Number of ready tiles that must run alone; `take` returns the first of them before any
        other.
        """
        return len(self._solo)

    @property
    def suspect(self) -> TileKey | None:
        """The ready tile that must run alone and comes next."""
        return self.graph.key(self._solo[0]) if self._solo else None

    @property
    def finished(self) -> bool:
        return self.done == self.total

    @property
    def stuck(self) -> bool:
        """True when nothing runs, nothing can run, and tiles are left: they wait for one that was
        given up.
        """
        return not (self.finished or self.running or self.recording or self.ready)

    def take(self, most: int) -> list[TileKey]:
        """Move up to `most` ready tiles of one level to running and return them; a suspect tile
        comes first, alone.
        """
        return [self.graph.key(number) for number in self.take_numbers(most)]

    def take_numbers(self, most: int) -> list[int]:
        """Do what `take` does."""
        taken: list[int] = []
        if self._solo:
            taken = [self._solo.pop(0)]
        else:
            heap = self._next_heap()
            taken = [heapq.heappop(heap) % self.total for _ in range(min(most, len(heap)))]
        for number in taken:
            self._states[number] = RUNNING
        self.ready -= len(taken)
        self.running += len(taken)
        return taken

    def _next_heap(self) -> list[int]:
        """Return the coarsest level's ready tiles, but of a level that is too far ahead only when
        there are no finer.
        """
        waiting = [level for level in reversed(range(len(self._heaps))) if self._heaps[level]]
        if not waiting:
            return []
        near = (k for k in waiting if k == 0 or self._ahead is None or self._kept[k] < self._ahead)
        return self._heaps[next(near, waiting[-1])]

    def all_done(self, level: int, rows: range, cols: range) -> bool:
        """Tell whether all tiles of some rows and columns of a level are durably committed."""
        columns = self.graph.grids[level].cols.count
        first = self.graph.bases[level] + cols.start
        count = len(cols)
        # The last rows are the last to be done.
        starts = (first + row * columns for row in reversed(rows))
        return all(self._states.count(DONE, start, start + count) == count for start in starts)

    def freed(self, keys: Iterable[TileKey]) -> None:
        """Record that the pixels of committed tiles were deleted, because nobody needs them any
        more.
        """
        for key in keys:
            self._kept[key.level] -= 1

    def to_fill(self, key: TileKey) -> bool:
        """Tell whether a tile that was taken is to be filled: restoring it has failed too often."""
        return self.graph.number(key) in self._to_fill

    def reported(self, keys: Iterable[TileKey]) -> None:
        """Release the tiles that waited for some whose records will be durable before those of what
        is released.
        """
        for number in map(self.graph.number, keys):
            self._report(number)

    def _report(self, number: int) -> None:
        self._stop_running(number)
        self._states[number] = REPORTED
        self.recording += 1
        if self._ahead is not None:
            self._kept[self.graph.level(number)] += 1
        self._release_after(number)

    def committed(self, keys: Iterable[TileKey]) -> None:
        """Record tiles as durable, and release the tiles that waited for them unless `reported`
        has.
        """
        self.committed_numbers([self.graph.number(key) for key in keys])

    def committed_numbers(self, numbers: Sequence[int]) -> None:
        """Do what `committed` does."""
        for number in numbers:
            if self._states[number] != REPORTED:
                self._report(number)
            self._states[number] = DONE
            self.recording -= 1
            self.done += 1
            if self._failures:
                self._failures.pop(number, None)
                self._to_fill.discard(number)

    def returned(self, keys: Iterable[TileKey]) -> None:
        """Put running tiles back to ready without blame (their worker was taken away); a suspect
        remains one.
        """
        for number in map(self.graph.number, keys):
            self._stop_running(number)
            self._put_back(number)

    def _put_back(self, number: int) -> None:
        if self._failures.get(number, 0) >= SOLO_AFTER:
            self._states[number] = READY
            self.ready += 1
            self._solo.append(number)
        else:
            self._push(number)

    def failed(self, keys: Iterable[TileKey], cause: str) -> list[TileKey]:
        """Record a failed try of running tiles: back to ready, later alone, at last given up;
        returns those.
        """
        given_up = []
        for key in keys:
            number = self.graph.number(key)
            self._stop_running(number)
            tries = self._failures.get(number, 0) + 1
            self._failures[number] = tries
            if tries == QUARANTINE_AFTER and self._fill:
                self._to_fill.add(number)
            if tries >= QUARANTINE_AFTER + (FILL_TRIES if self._fill else 0):
                self._states[number] = GIVEN_UP
                self.given_up[key] = cause
                given_up.append(key)
            else:
                self._put_back(number)
        return given_up

    def _stop_running(self, number: int) -> None:
        state = self._states[number]
        if state != RUNNING:
            key = self.graph.key(number)
            raise ValueError(
                f"{key} is not running (state {state}): an event was reported twice or too early"
            )
        self.running -= 1
