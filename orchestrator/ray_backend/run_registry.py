"""RunRegistry: the runs that an executor serves, and the workers that get ready for them, for one
run after another.

What goes wrong with a run ends that run. A worker that dies as it opens a run may have died of that
or of tiles of other runs: orchestrator.scheduling.opening_trials finds out which.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RunError
from orchestrator.events import WorkerLost, WorkerStarted
from orchestrator.ray_backend.event_queue import EventQueue, JournalSynced
from orchestrator.ray_backend.run_state import RunState
from orchestrator.run.run_queue import RunQueue, again
from orchestrator.run.session import Session
from orchestrator.scheduling.deadlines import FIRST_SECONDS
from orchestrator.scheduling.opening_trials import OpeningTrials, Standing


@dataclass(slots=True)
class Opening:
    """A worker that gets ready for a run."""

    run: RunState
    worker: Any
    since: float
    """By the monotonic clock, s."""

    def late(self, now: float) -> bool:
        """Tell whether it takes longer than a run's first batch may."""
        return now - self.since > FIRST_SECONDS + self.run.deadlines.slack


class RunRegistry:
    """Runs and the workers that count for them; a worker is an
    orchestrator.ray_backend.actor_pool.Member.
    """

    def __init__(self, queue: EventQueue) -> None:
        self.runs: list[RunState] = []
        self.opening: dict[Any, Opening] = {}
        """By the reference that tells that a worker is ready."""
        self._queue = queue
        self._workers: dict[Any, None] = {}
        self._trials: OpeningTrials[RunState, Any] = OpeningTrials()
        self._numbers = 0
        self._run_queue = RunQueue()

    def admit(self, session: Session, ended: Future[None]) -> RunState:
        """Serve one more run; `ended` is told when it is through, or what went wrong."""
        self._numbers += 1
        run = RunState(self._numbers, session, ended, self._queue)
        self.runs.append(run)
        for worker in self._workers:
            self._open_next(worker)
        return run

    def join(self, worker: Any) -> None:
        """Have one more worker get ready for all runs."""
        self._workers[worker] = None
        self._open_next(worker)

    def leave(self, worker: Any) -> None:
        """Forget a worker that is lost."""
        self._workers.pop(worker, None)
        self._trials.released(worker)
        for ref in [ref for ref, opening in self.opening.items() if opening.worker is worker]:
            del self.opening[ref]
        for run in self.runs:
            run.opened.discard(worker)

    def opened(self, ref: Any) -> None:
        """Count on a worker for a run that it is ready for."""
        opening = self.opening.pop(ref)
        run = opening.run
        worker = opening.worker
        cleared = self._trials.ready(run)
        self._trials.released(worker)
        if run.over:
            worker.handle.close.remote(run.number)
        else:
            run.opened.add(worker)
            run.session.emit(WorkerStarted(worker=worker.name, **worker.traits))
        for other in list(self._workers) if cleared else [worker]:
            self._open_next(other)

    def refused(self, ref: Any, cause: str, *, more: bool) -> None:
        """Note that a worker cannot take a run; it ends when none can and no `more` are to come."""
        opening = self.opening.pop(ref)
        self._trials.released(opening.worker)
        if not opening.run.over:
            opening.run.refused[opening.worker] = cause
            self.check_takers(more=more)
        self._open_next(opening.worker)

    def check_takers(self, *, more: bool) -> None:
        """End the runs that a worker has refused and that nobody takes, unless `more` workers are
        to come.
        """
        if more:
            return
        for run in list(self.runs):
            nobody = not run.opened and all(worker in run.refused for worker in self._workers)
            if run.refused and nobody:
                with self.concerning(run):
                    cause = list(run.refused.values())[-1]
                    raise RunError(f"no worker could get ready for this run: {cause}")

    def late(self, now: float) -> list[Any]:
        """Return the workers that have been getting ready for a run for longer than a run's first
        batch may take.
        """
        late = [opening.worker for opening in self.opening.values() if opening.late(now)]
        return list(dict.fromkeys(late))

    def credit(self, seconds: float) -> None:
        """Give everybody the time that this process stood still."""
        for opening in self.opening.values():
            opening.since += seconds

    def blame(self, worker: Any, cause: str, most: int, *, beside: bool) -> bool:
        """Count a death at the run that the worker was getting ready for; True when that ends the
        run, for good.

        A run that some worker is ready for is to blame for nothing. most: workers that may die of
        it. beside: the worker had tiles of other runs, which may have been the cause.
        """
        run = next((o.run for o in self.opening.values() if o.worker is worker), None)
        if run is None or run.over or run.opened:
            return False
        if self._trials.died(run, worker, most, beside=beside):
            deaths = self._trials.deaths(run)
            with self.concerning(run):
                raise RunError(
                    f"workers died {deaths} times as they got ready for this run; the last: {cause}"
                )
        return run.over

    def apart(self) -> Collection[Any]:
        """Return the workers that are to get no tiles now, because what they open, or are to, is a
        suspect.
        """
        if not self._trials.any_suspects:
            return ()
        workers = {o.worker for o in self.opening.values() if not self._trusted(o.run)}
        if self._trials.trial is not None:
            workers.add(self._trials.trial.worker)
        return workers

    def try_suspect(self, is_busy: Callable[[Any], bool]) -> None:
        """Have a suspect opened by a worker that has nothing else to do: one at a time, the others
        go on with their tiles.
        """
        if not self._trials.any_suspects:
            return
        at_it = {opening.worker for opening in self.opening.values()}
        trial = self._trials.choose(
            lambda run: [w for w in self._workers if w not in at_it and w not in run.refused],
            is_busy,
        )
        if trial is not None and trial.worker not in at_it and not is_busy(trial.worker):
            self._open(trial.run, trial.worker)

    def tell_lost(self, worker: Any, event: WorkerLost) -> None:
        """Tell the runs that had counted on a worker; all of them when it was not ready for any."""
        counting = [run for run in self.runs if worker in run.opened]
        for run in counting or self.runs:
            run.session.emit(event)

    def synced(self, event: JournalSynced) -> None:
        """Release what waited for batches that are on the disk, if their run is still served."""
        for run in [run for run in self.runs if run.recorder is event.by]:
            with self.concerning(run):
                run.synced(event)

    def follow(self, run_queue: RunQueue) -> None:
        """Ask `run_queue` whether more runs are to come."""
        self._run_queue = run_queue

    def order(self) -> list[RunState]:
        """Return the runs in the order in which workers serve them.

        While more are to come the oldest goes first: it makes room for the next. Then the one with
        the longest chain left does, because it ends last (simulated: 3 to 8 points of utilisation
        with 16 or 32 workers, docs/RESULTS.md).
        """
        if self._run_queue.more or len(self.runs) == 1:
            return self.runs
        return sorted(self.runs, key=lambda run: -run.session.path.length)

    def announce(self) -> None:
        """Tell listeners and sinks of what was released."""
        for run in [run for run in self.runs if run.news]:
            with self.concerning(run):
                run.announce()

    def settle(self) -> None:
        """Give back the runs that are through; the last records of others are written at once."""
        for run in self.runs:
            run.hurry()
        for run in [run for run in self.runs if run.idle]:
            with self.concerning(run):
                run.announce()
            if not run.over:
                self._end(run)

    def end(self, error: BaseException) -> None:
        """Give all runs back with an error; the workers are gone."""
        for run in self.runs:
            run.end(again(error))
        self.runs.clear()

    @contextlib.contextmanager
    def concerning(self, run: RunState) -> Iterator[None]:
        """Let what goes wrong within end this run alone."""
        try:
            yield
        except Exception as err:
            if not run.over:
                self._end(run, err)

    def _open_next(self, worker: Any) -> None:
        """Have a worker get ready for the next run that it does not know, unless it is at it with
        another.
        """
        if any(opening.worker is worker for opening in self.opening.values()):
            return
        for run in self.runs:
            known = worker in run.opened or worker in run.refused
            if not known and self._trusted(run):
                self._open(run, worker)
                return

    def _trusted(self, run: RunState) -> bool:
        return self._trials.standing(run) is Standing.TRUSTED

    def _open(self, run: RunState, worker: Any) -> None:
        root = str(run.session.run_dir.root.absolute())
        ref = worker.handle.open.remote(run.number, root, run.session.plan)
        self.opening[ref] = Opening(run, worker, time.monotonic())
        self._queue.expect(ref)

    def _end(self, run: RunState, error: BaseException | None = None) -> None:
        self.runs.remove(run)
        self._trials.ended(run)
        for worker in run.opened:
            worker.handle.close.remote(run.number)
        run.end(error)
