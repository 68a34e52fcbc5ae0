"""Crew: which worker takes how many tiles next. Pure bookkeeping: no Ray, no clock.

A worker may have two batches: the one that it computes and, when tiles are plentiful, one that it reads meanwhile. A
suspect tile (one that failed before) gets a worker for itself, so that it can take nothing else down with it, and one
that has not failed at it while there is any, so that a broken worker is not taken for a poison tile.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from orchestrator.frontier import Frontier
from orchestrator.grid import TileKey
from orchestrator.policy import ahead, continuous_batch, fair_batch

W = TypeVar("W", bound=Hashable)


@dataclass(slots=True)
class _Load:
    """What a worker has been given and not yet reported."""

    most: int
    """Tiles that it takes at a time."""
    tiles: int = 0
    batches: int = 0
    alone: bool = False
    """Its tile is a suspect."""


@dataclass(slots=True)
class Crew(Generic[W]):
    """The workers that take tiles; any hashable value names one."""

    most: int
    """Tiles that a worker takes at a time."""
    continuous: bool = False
    _loads: dict[W, _Load] = field(default_factory=dict)
    _free: dict[W, None] = field(default_factory=dict)
    """Those with nothing to do, longest first."""
    _single: dict[W, None] = field(default_factory=dict)
    """Those with one batch, no suspect, longest first: found at once among a thousand."""
    _failed: dict[TileKey, set[W]] = field(default_factory=dict)
    """Tiles that failed and are not done, with the workers that failed at them."""

    def __contains__(self, worker: object) -> bool:
        return worker in self._loads

    def __iter__(self) -> Iterator[W]:
        return iter(self._loads)

    @property
    def calls(self) -> int:
        """Batches that a worker is given at most; those that join as slots fall free may be of single tiles."""
        return 2 * self.most if self.continuous else 2

    def join(self, worker: W) -> None:
        """Count on a worker."""
        self._loads[worker] = _Load(self.most)
        self._free[worker] = None

    def leave(self, worker: W) -> None:
        """Count on a worker no more."""
        for found in (self._loads, self._free, self._single):
            found.pop(worker, None)

    def limit(self, worker: W, most: int) -> bool:
        """Send no more than `most` tiles at a time to a worker; True when that is news."""
        load = self._loads.get(worker)
        if load is None or most >= load.most:
            return False
        load.most = most
        return True

    def turn(self, frontier: Frontier, workers: int) -> tuple[W, int] | None:
        """Return who takes how many of the frontier's tiles now, None to wait. workers: alive, busy or not."""
        ready, running = frontier.ready, frontier.running
        if not ready:
            return None
        if (suspect := frontier.suspect) is not None:
            worker = self._for_suspect(suspect)
            return None if worker is None else (worker, 1)
        if self._free and not self.continuous:
            worker = next(iter(self._free))
            size = fair_batch(ready, running, workers, self.most)
            return (worker, min(size, self._loads[worker].most)) if size else None
        return self._share(ready, running, workers) if self.continuous else self._ahead(ready, running, workers)

    def _for_suspect(self, suspect: TileKey) -> W | None:
        """Return a free worker that has not failed at a tile; any free one when all there are have."""
        failed = self._failed.get(suspect, set())
        fresh = next((worker for worker in self._free if worker not in failed), None)
        return next(iter(self._free), None) if fresh is None and failed.issuperset(self._loads) else fresh

    def failed(self, worker: W, keys: Iterable[TileKey]) -> None:
        """Record that a worker, which lives on, has failed at tiles."""
        for key in keys:
            self._failed.setdefault(key, set()).add(worker)

    def done(self, keys: Iterable[TileKey]) -> None:
        """Record that tiles are restored."""
        if self._failed:
            for key in keys:
                self._failed.pop(key, None)

    def _ahead(self, ready: int, running: int, workers: int) -> tuple[W, int] | None:
        worker = next(iter(self._single), None)
        if worker is None or not ahead(ready, workers, self.most):
            return None
        size = fair_batch(ready, running, workers, self.most)
        return (worker, min(size, self._loads[worker].most)) if size else None

    def _share(self, ready: int, running: int, workers: int) -> tuple[W, int] | None:
        """Fill up the least busy worker; where tiles are plentiful, one more batch waits at its door."""
        spare = 2 if ahead(ready, workers, self.most) else 1
        least = min(
            ((load.tiles, i, worker) for i, (worker, load) in enumerate(self._loads.items()) if not load.alone),
            default=None,
        )
        if least is None:
            return None
        worker = least[2]
        size = continuous_batch(ready, running, workers, spare * self._loads[worker].most, least[0])
        return (worker, min(size, self._loads[worker].most)) if size else None

    def sent(self, worker: W, tiles: int, *, suspect: bool = False) -> None:
        """Record that a worker has been given a batch."""
        load = self._loads[worker]
        load.tiles, load.batches, load.alone = load.tiles + tiles, load.batches + 1, suspect
        self._sort(worker, load)

    def back(self, worker: W, tiles: int) -> None:
        """Record that a worker has reported a batch, or failed at it."""
        if load := self._loads.get(worker):
            load.tiles, load.batches, load.alone = load.tiles - tiles, load.batches - 1, False
            self._sort(worker, load)

    def _sort(self, worker: W, load: _Load) -> None:
        self._free.pop(worker, None)
        self._single.pop(worker, None)
        if not load.batches:
            self._free[worker] = None
        elif load.batches == 1 and not load.alone:
            self._single[worker] = None
