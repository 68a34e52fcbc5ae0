"""Frontier: which tiles may run now. A pure state machine: no I/O, no Ray, no clock, no randomness.

A tile is waiting (a predecessor is missing), ready, running or done; a tile that failed too often is given up, and its
successors then never become ready. Events in: `take`, `committed`, `returned`, `failed`. Memory: one byte per tile
plus the ready set; nothing is computed for a tile before a predecessor of it is done.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from orchestrator.graph import TaskGraph
from orchestrator.grid import TileKey

# Two failures in company: then alone, so that one poison tile cannot drag a batch along; five in all: given up.
SOLO_AFTER = 2
QUARANTINE_AFTER = 5

WAITING, READY, RUNNING, DONE, GIVEN_UP = range(5)


class Frontier:
    """The dependency state machine over a TaskGraph.

    Ready tiles are handed out coarsest level first (they unlock most), then nearest to the root first (they have the
    longest chains behind them), then by row and column: a total order, so the same events always give the same answers.
    """

    def __init__(self, graph: TaskGraph, done: Iterable[TileKey] = ()) -> None:
        self.graph = graph
        self.total = graph.count
        self.done = 0
        self.running = 0
        self.given_up: dict[TileKey, str] = {}
        self._failures: dict[TileKey, int] = {}
        self._states = [bytearray(grid.count) for grid in graph.grids]
        self._heaps: list[list[tuple[int, int]]] = [[] for _ in graph.grids]
        self._solo: list[TileKey] = []
        finished = list(done)
        for key in finished:
            self.done += self._state(key) != DONE
            self._set(key, DONE)
        for key in graph.roots():
            self._release(key)
        for key in finished:
            for successor in graph.successors(key):
                self._release(successor)

    def _state(self, key: TileKey) -> int:
        return self._states[key.level][self.graph.grids[key.level].index(key)]

    def _set(self, key: TileKey, state: int) -> None:
        self._states[key.level][self.graph.grids[key.level].index(key)] = state

    def _release(self, key: TileKey) -> None:
        if self._state(key) == WAITING and all(self._state(p) == DONE for p in self.graph.predecessors(key)):
            self._push(key)

    def _push(self, key: TileKey) -> None:
        grid = self.graph.grids[key.level]
        self._set(key, READY)
        heapq.heappush(self._heaps[key.level], (grid.depth(key), grid.index(key)))

    @property
    def ready(self) -> int:
        """Number of tiles that may run now."""
        return len(self._solo) + sum(map(len, self._heaps))

    @property
    def finished(self) -> bool:
        return self.done == self.total

    @property
    def stuck(self) -> bool:
        """True when nothing runs, nothing can run, and tiles are left: they wait for one that was given up."""
        return not self.finished and self.running == 0 and self.ready == 0

    def take(self, most: int) -> list[TileKey]:
        """Move up to `most` ready tiles of one level to running and return them; a suspect tile comes first, alone."""
        if self._solo:
            return self._run([self._solo.pop(0)])
        for level in reversed(range(len(self._heaps))):
            heap = self._heaps[level]
            if heap:
                grid = self.graph.grids[level]
                keys = [grid.key(heapq.heappop(heap)[1]) for _ in range(min(most, len(heap)))]
                return self._run(keys)
        return []

    def _run(self, keys: list[TileKey]) -> list[TileKey]:
        for key in keys:
            self._set(key, RUNNING)
        self.running += len(keys)
        return keys

    def committed(self, keys: Iterable[TileKey]) -> None:
        """Record tiles as durable and release the tiles that waited for them."""
        for key in keys:
            self._expect_running(key)
            self._set(key, DONE)
            self.running -= 1
            self.done += 1
            self._failures.pop(key, None)
            for successor in self.graph.successors(key):
                self._release(successor)

    def returned(self, keys: Iterable[TileKey]) -> None:
        """Put running tiles back to ready without blame (their worker was taken away)."""
        for key in keys:
            self._expect_running(key)
            self.running -= 1
            self._push(key)

    def failed(self, keys: Iterable[TileKey], cause: str) -> list[TileKey]:
        """Record a failed try of running tiles: back to ready, later alone, at last given up; returns those."""
        given_up = []
        for key in keys:
            self._expect_running(key)
            self.running -= 1
            tries = self._failures[key] = self._failures.get(key, 0) + 1
            if tries >= QUARANTINE_AFTER:
                self._set(key, GIVEN_UP)
                self.given_up[key] = cause
                given_up.append(key)
            elif tries >= SOLO_AFTER:
                self._set(key, READY)
                self._solo.append(key)
            else:
                self._push(key)
        return given_up

    def _expect_running(self, key: TileKey) -> None:
        if self._state(key) != RUNNING:
            raise ValueError(
                f"{key} is not running (state {self._state(key)}): an event was reported twice or too early"
            )
