"""Dispatcher: which worker takes how many tiles of which run next. Pure bookkeeping: no Ray, no
clock.

Several runs may share the workers: what is ready and running in all of them together decides how
much a worker takes, and the first run that has so much gives it, so that the others fill what its
wavefront leaves idle. A batch is of one run.

A worker may have two batches: the one that it computes and, when tiles are plentiful, one that it
reads meanwhile. A suspect tile (one that failed before) gets a worker for itself, so that it can
take nothing else down with it, and one that has not failed at it while there is any, so that a
broken worker is not taken for a poison tile.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from orchestrator.scheduling.batch_policy import ahead, fair_batch
from orchestrator.scheduling.frontier import Frontier
from orchestrator.tiling.grid import TileKey

# Batches that a worker is given at most: the one that it computes, and the one that it reads.
MOST_BATCHES = 2

W = TypeVar("W", bound=Hashable)


class TileSource(Protocol):
    """A run's tiles, and the workers that can take them."""

    @property
    def frontier(self) -> Frontier: ...

    @property
    def opened(self) -> Container[Any]: ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Tiles:
    """A run's tiles and who can take them, and nothing else."""

    frontier: Frontier
    opened: Container[Any]


S = TypeVar("S", bound=TileSource)


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
class Dispatcher(Generic[W]):
    """The workers that take tiles; any hashable value names one."""

    most: int
    """Tiles that a worker takes at a time."""
    _loads: dict[W, _Load] = field(default_factory=dict)
    _free: dict[W, None] = field(default_factory=dict)
    """Those with nothing to do, longest first."""
    _single: dict[W, None] = field(default_factory=dict)
    """Those with one batch, no suspect, longest first: at hand among a thousand."""
    _failed: WeakKeyDictionary[Any, dict[TileKey, set[W]]] = field(
        default_factory=WeakKeyDictionary
    )
    """Per run the tiles that failed and are not done, with the workers that failed at them."""

    def __contains__(self, worker: object) -> bool:
        return worker in self._loads

    def __iter__(self) -> Iterator[W]:
        return iter(self._loads)

    @property
    def supplied(self) -> bool:
        """True while every worker has its next batch in hand."""
        if self._free or self._single:
            return False
        return bool(self._loads) and all(
            load.batches >= MOST_BATCHES for load in self._loads.values()
        )

    def join(self, worker: W) -> None:
        """Count on a worker."""
        self._loads[worker] = _Load(self.most)
        self._free[worker] = None

    def leave(self, worker: W) -> None:
        """Count on a worker no more."""
        self._loads.pop(worker, None)
        self._free.pop(worker, None)
        self._single.pop(worker, None)

    def limit(self, worker: W, most: int) -> bool:
        """Send no more than `most` tiles at a time to a worker; True when that is news."""
        load = self._loads.get(worker)
        if load is None or most >= load.most:
            return False
        load.most = most
        return True

    def busy(self, worker: W) -> bool:
        """Tell whether a worker has been given tiles that it has not reported."""
        return worker in self._loads and self._loads[worker].batches > 0

    def turn(
        self, runs: Sequence[S], workers: int, apart: Container[W] = ()
    ) -> tuple[S, W, int] | None:
        """Return which worker takes how many tiles of which run, the first first; None to wait.

        workers: how many are alive, busy or not. apart: those that are to get nothing.
        """
        if not (self._free or self._single):
            return None
        ready = running = suspects = 0
        for run in runs:
            frontier = run.frontier
            ready += frontier.ready
            running += frontier.running
            suspects += frontier.suspects
        if not ready:
            return None
        if suspects:  # with suspects about, nobody is given work ahead
            lone = self._suspect(runs, apart)
            return lone or self._fair(runs, self._free, ready, running, workers, apart)
        turn = self._fair(runs, self._free, ready, running, workers, apart)
        if turn is None and ahead(ready, workers, self.most):
            return self._fair(runs, self._single, ready, running, workers, apart)
        return turn

    def _suspect(self, runs: Sequence[S], apart: Container[W]) -> tuple[S, W, int] | None:
        """Give a suspect to a free worker that has not failed at it; to any free one when all there
        are have.
        """
        for run in runs:
            suspect = run.frontier.suspect
            if suspect is None:
                continue
            failed = self._failed.get(run, {}).get(suspect, set())
            free = [worker for worker in self._free if worker in run.opened and worker not in apart]
            worker = next((worker for worker in free if worker not in failed), None)
            takers = [worker for worker in self._loads if worker in run.opened]
            if worker is None and all(taker in failed for taker in takers):
                worker = next(iter(free), None)
            if worker is not None:
                return run, worker, 1
        return None

    def failed(self, run: S, worker: W, keys: Iterable[TileKey]) -> None:
        """Record that a worker, which lives on, has failed at tiles."""
        for key in keys:
            self._failed.setdefault(run, {}).setdefault(key, set()).add(worker)

    def done(self, run: S, keys: Iterable[TileKey]) -> None:
        """Record that tiles are restored."""
        if (failed := self._failed.get(run)) is not None:
            for key in keys:
                failed.pop(key, None)

    def _fair(
        self,
        runs: Sequence[S],
        takers: dict[W, None],
        ready: int,
        running: int,
        workers: int,
        apart: Container[W],
    ) -> tuple[S, W, int] | None:
        """Give the taker that has waited longest, and knows such a run, a fair share."""
        size = fair_batch(ready, running, workers, self.most)
        for worker in takers if size else ():
            if worker not in apart and (run := _fullest(runs, worker, size)) is not None:
                return run, worker, min(size, run.frontier.ready, self._loads[worker].most)
        return None

    def sent(self, worker: W, tiles: int, *, suspect: bool = False) -> None:
        """Record that a worker has been given a batch."""
        load = self._loads[worker]
        load.tiles = load.tiles + tiles
        load.batches = load.batches + 1
        load.alone = suspect
        self._sort(worker, load)

    def back(self, worker: W, tiles: int) -> None:
        """Record that a worker has reported a batch, or failed at it."""
        if load := self._loads.get(worker):
            load.tiles = load.tiles - tiles
            load.batches = load.batches - 1
            load.alone = False
            self._sort(worker, load)

    def _sort(self, worker: W, load: _Load) -> None:
        self._free.pop(worker, None)
        self._single.pop(worker, None)
        if not load.batches:
            self._free[worker] = None
        elif load.batches == 1 and not load.alone:
            self._single[worker] = None


def _fullest(runs: Sequence[S], worker: Hashable, size: int) -> S | None:
    """Return the first run with so many tiles for a worker, else the one with most; None when none
    has any.
    """
    fullest: S | None = None
    most = 0
    for run in runs:
        if run.frontier.suspects or worker not in run.opened:
            continue
        ready = run.frontier.ready
        if ready >= size:
            return run
        if ready > most:
            fullest = run
            most = ready
    return fullest
