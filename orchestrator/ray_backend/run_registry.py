"""RunRegistry: the runs that an executor serves, in which order, and which of its workers are ready
for which of them.

Every worker is asked to open every run, one after another, and takes tiles of those that it has
opened: when it dies, the run that it was getting ready for is known. When it had tiles of another
run as well, either may have been the cause: the run is a suspect, and what follows is tried on a
worker that has nothing else to do. What goes wrong with a run ends that run alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import Any

from orchestrator.errors import RunError
from orchestrator.events import WorkerLost, WorkerStarted
from orchestrator.ray_backend.event_queue import EventQueue, JournalSynced
from orchestrator.ray_backend.run_state import RunState
from orchestrator.run.run_queue import RunQueue, again
from orchestrator.run.session import Session
from orchestrator.scheduling.deadlines import FIRST_SECONDS

# Workers that may die of a run that is opened with nothing beside it, one after another: by then it
# is the run. With those that died of it together before they are fewer than the pool endures.
ALONE = 2


class RunRegistry:
    """Runs and the workers that count for them; a worker is an
    orchestrator.ray_backend.actor_pool.Member.
    """

    def __init__(self, mailbox: EventQueue) -> None:
        self.lanes: list[RunState] = []
        self.opening: dict[Any, tuple[RunState, Any]] = {}
        """What tells that a worker is ready for a run."""
        self._asked: dict[Any, float] = {}  # when, by the monotonic clock
        self._mailbox = mailbox
        self._workers: dict[Any, None] = {}
        # The suspect that is opened next, and the worker that is to be idle.
        self._trial: tuple[RunState, Any] | None = None
        self._numbers = 0
        self._arrivals = RunQueue()

    def admit(self, session: Session, ended: Future[None]) -> RunState:
        """Serve one more run; `ended` is told when it is through, or what went wrong."""
        self._numbers += 1
        lane = RunState(self._numbers, session, ended, self._mailbox)
        self.lanes.append(lane)
        for worker in self._workers:
            self._ask(worker)
        return lane

    def join(self, worker: Any) -> None:
        """Have one more worker get ready for all runs."""
        self._workers[worker] = None
        self._ask(worker)

    def leave(self, worker: Any) -> None:
        """Forget a worker that is lost."""
        self._workers.pop(worker, None)
        self._tried(worker)
        for ref in [ref for ref, (_, other) in self.opening.items() if other is worker]:
            del self.opening[ref], self._asked[ref]
        for lane in self.lanes:
            lane.opened.discard(worker)

    def opened(self, ref: Any) -> None:
        """Count on a worker for a run that it is ready for."""
        lane, worker = self._answered(ref)
        waiting = self._workers if lane.suspect else (worker,)
        lane.suspect = False
        if lane.over:
            worker.handle.close.remote(lane.number)
        else:
            lane.opened.add(worker)
            lane.session.emit(WorkerStarted(worker=worker.name, **worker.traits))
        for other in waiting:
            self._ask(other)

    def refused(self, ref: Any, cause: str, *, more: bool) -> None:
        """Note that a worker cannot take a run; when none can, and no `more` are to come, it ends."""
        lane, worker = self._answered(ref)
        if not lane.over:
            lane.refused[worker] = cause
            self.check_takers(more=more)
        self._ask(worker)

    def check_takers(self, *, more: bool) -> None:
        """End the runs that a worker has refused and that nobody takes, unless `more` workers are
        to come.
        """
        for lane in [] if more else list(self.lanes):
            if (
                lane.refused
                and not lane.opened
                and all(worker in lane.refused for worker in self._workers)
            ):
                with self.concerning(lane):
                    cause = list(lane.refused.values())[-1]
                    raise RunError(f"no worker could get ready for this run: {cause}")

    def late(self, now: float) -> list[Any]:
        """Return the workers that have been getting ready for a run for longer than a run's first
        batch may take.
        """
        asked = ((*self.opening[ref], since) for ref, since in self._asked.items())
        return list(
            {
                worker: None
                for lane, worker, since in asked
                if now - since > FIRST_SECONDS + lane.deadlines.slack
            }
        )

    def credit(self, seconds: float) -> None:
        """Give everybody the time that this process stood still."""
        for ref in self._asked:
            self._asked[ref] += seconds

    def blame(self, worker: Any, cause: str, most: int, *, beside: bool) -> bool:
        """Count a death at the run that the worker was getting ready for; True when that ends the
        run, for good.

        It ends when nobody is ready for it and more than `most` have died of it, or than ALONE of
        them when it is tried alone. beside: the worker had tiles of other runs, which proves
        nothing: the next to open this run will have none, so that its death counts.
        """
        lane = next((lane for lane, other in self.opening.values() if other is worker), None)
        if lane is None or lane.over or lane.opened:
            return False
        alone = self._trial == (lane, worker)
        if beside and not alone:
            lane.suspect = True
            return False
        lane.deaths += 1
        if lane.deaths > (min(most, ALONE) if alone else most):
            with self.concerning(lane):
                raise RunError(
                    f"workers died {lane.deaths} times as they got ready for this run; the last: {cause}"
                )
        return lane.over

    def apart(self) -> Collection[Any]:
        """Return the workers that are to get no tiles now, because what they open, or are to, is a
        suspect.
        """
        if not any(lane.suspect for lane in self.lanes):
            return ()
        found = {worker for lane, worker in self.opening.values() if lane.suspect}
        return found if self._trial is None else found | {self._trial[1]}

    def try_suspect(self, is_busy: Callable[[Any], bool]) -> None:
        """Have a suspect opened by a worker that has nothing else to do: one at a time, the others
        go on with their tiles.
        """
        suspects = [lane for lane in self.lanes if lane.suspect]
        if self._trial is not None and self._trial[0] not in suspects:
            self._trial = None
        if not suspects:
            return
        at_it = {worker for _, worker in self.opening.values()}
        if self._trial is None:
            pairs = [
                (lane, w)
                for lane in suspects
                for w in self._workers
                if w not in at_it and w not in lane.refused
            ]
            self._trial = min(pairs, key=lambda pair: is_busy(pair[1]), default=None)
        if self._trial is not None and self._trial[1] not in at_it and not is_busy(self._trial[1]):
            self._open(*self._trial)

    def tell_lost(self, worker: Any, event: WorkerLost) -> None:
        """Tell the runs that had counted on a worker; all of them when it was not ready for any."""
        counting = [lane for lane in self.lanes if worker in lane.opened]
        for lane in counting or self.lanes:
            lane.session.emit(event)

    def durable(self, letter: JournalSynced) -> None:
        """Release what waited for batches that are on the disk, if their run is still served."""
        for lane in [lane for lane in self.lanes if lane.recorder is letter.by]:
            with self.concerning(lane):
                lane.durable(letter)

    def follow(self, arrivals: RunQueue) -> None:
        """Ask `arrivals` whether more runs are to come."""
        self._arrivals = arrivals

    def order(self) -> list[RunState]:
        """Return the runs in the order in which workers serve them.

        While more are to come the oldest goes first: it makes room for the next. Then the one with
        the longest chain left does, because it ends last (simulated: 3 to 8 points of utilisation
        with 16 or 32 workers, docs/RESULTS.md).
        """
        if self._arrivals.more or len(self.lanes) == 1:
            return self.lanes
        return sorted(self.lanes, key=lambda lane: -lane.session.path.length)

    def announce(self) -> None:
        """Tell listeners and outlets of what was released."""
        for lane in [lane for lane in self.lanes if lane.news]:
            with self.concerning(lane):
                lane.announce()

    def settle(self) -> None:
        """Give back the runs that are through, and have the last records of others written at once."""
        for lane in self.lanes:
            lane.hurry()
        for lane in [lane for lane in self.lanes if lane.idle]:
            with self.concerning(lane):
                lane.announce()
            if not lane.over:
                self._end(lane)

    def end(self, error: BaseException) -> None:
        """Give all runs back with an error; the workers are gone."""
        for lane in self.lanes:
            lane.end(again(error))
        self.lanes.clear()

    @contextlib.contextmanager
    def concerning(self, lane: RunState) -> Iterator[None]:
        """Let what goes wrong within end this run alone."""
        try:
            yield
        except Exception as err:
            if not lane.over:
                self._end(lane, err)

    def _ask(self, worker: Any) -> None:
        """Have a worker get ready for the next run that it does not know, unless it is at it with
        another.
        """
        if any(other is worker for _, other in self.opening.values()):
            return
        unknown = (
            lane for lane in self.lanes if worker not in lane.opened and worker not in lane.refused
        )
        if (lane := next((lane for lane in unknown if not lane.suspect), None)) is not None:
            self._open(lane, worker)

    def _open(self, lane: RunState, worker: Any) -> None:
        root = str(lane.session.run_dir.root.absolute())
        ref = worker.handle.open.remote(lane.number, root, lane.session.plan)
        self.opening[ref] = (lane, worker)
        self._asked[ref] = time.monotonic()
        self._mailbox.expect(ref)

    def _answered(self, ref: Any) -> tuple[RunState, Any]:
        del self._asked[ref]
        lane, worker = self.opening.pop(ref)
        self._tried(worker)
        return lane, worker

    def _tried(self, worker: Any) -> None:
        if self._trial is not None and self._trial[1] is worker:
            self._trial = None

    def _end(self, lane: RunState, error: BaseException | None = None) -> None:
        self.lanes.remove(lane)
        for worker in lane.opened:
            worker.handle.close.remote(lane.number)
        lane.end(error)
