"""DriverLoop: take runs in, send batches to workers, act on what happens, until all have ended.

Every batch call carries the references of its predecessors' reports, so the edges of mask-shift
restoration exist in Ray's own task graph; they are resolved by then (the frontier saw them commit),
so no call ever waits inside an actor. A reference is dropped once every successor of its tiles has
been dispatched.
"""

from __future__ import annotations

import sys
import time

from orchestrator.events import Draining
from orchestrator.ray_backend.actor_pool import Member
from orchestrator.ray_backend.answer_handler import AnswerHandler
from orchestrator.ray_backend.driver_state import DriverState, InflightCall
from orchestrator.ray_backend.event_queue import DriverEvent, JournalSynced, Result, Wakeup
from orchestrator.ray_backend.health_checks import TICK_SECONDS, HealthChecks
from orchestrator.ray_backend.poll import poll_results
from orchestrator.ray_backend.prometheus import RayMetrics
from orchestrator.ray_backend.run_state import RunState
from orchestrator.run.run_queue import RunQueue
from orchestrator.shutdown import Stop
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_report import Report
from orchestrator.worker.batch_request import BatchCall

# While every worker has its next batch in hand nobody waits for this process: it sleeps on for this
# share of what the shortest of the last batches took, at most so many seconds, and acts in one go
# on what was reported meanwhile (docs/RESULTS.md).
SLEEP_SHARE = 0.5
LONGEST_SLEEP = 0.1
# How long the records of what was reported may take to be written when a run is ended, seconds; a
# store that fails then is not waited for: whoever ends it has waited already, and what is not
# recorded is restored again.
LAST_RECORDS_SECONDS = 5.0

NamedReports = list[tuple[str, Report]]
"""Names of workers and what they reported."""


class DriverLoop:
    """Serve the runs of a queue on one set of workers."""

    def __init__(
        self, state: DriverState, run_queue: RunQueue, stop: Stop, *, gather: bool
    ) -> None:
        """gather: send nothing before all workers have joined."""
        self._state = state
        self._run_queue = run_queue
        self._stop = stop
        self._gathering = gather
        self._answers = AnswerHandler(state)
        self._checks = HealthChecks(state, self._answers)
        self._sleep = 0.0
        state.registry.follow(run_queue)
        run_queue.wake = lambda: state.queue.put(Wakeup())

    def run(self) -> None:
        """Serve until no run is left and none will come.

        Raises KeyboardInterrupt when asked to stop, RunError when workers keep dying or the cluster
        is gone. All runs have ended on return; with its error where there is one.
        """
        try:
            with self._stop.draining():
                self._serve()
        finally:
            self._close()

    def _serve(self) -> None:
        state = self._state
        while not (self._stop.requested or (self._run_queue.exhausted and not state.registry.runs)):
            self._admit()
            for ref in state.pool.fill():
                state.queue.expect(ref)
            self._dispatch()
            self._collect()
            self._checks.tick()
            state.registry.settle()
        if self._stop.requested:
            self._drain()
            raise KeyboardInterrupt

    def _drain(self) -> None:
        """Wait for what runs, or is being recorded; nothing new begins."""
        state = self._state
        for run in state.registry.runs:
            batches = len(state.inflight)
            run.session.emit(Draining(batches=batches, seconds=self._stop.seconds))
            run.recorder.hurry()
        while any(run.draining for run in state.registry.runs):
            self._collect()
            self._checks.tick()

    def _admit(self) -> None:
        """Take in the runs that have arrived."""
        for session, ended in self._run_queue.take():
            metrics = RayMetrics(str(session.output), session.left)
            session.listeners.append(metrics)
            self._state.registry.admit(session, ended).flush = metrics.flush

    def _dispatch(self) -> None:
        """Give workers what is ready, as the dispatcher says."""
        state = self._state
        if self._gathering and (state.pool.joining or state.registry.opening):
            return
        self._gathering = False
        dispatcher = state.dispatcher
        state.registry.try_suspect(dispatcher.busy)
        apart = state.registry.apart()
        while turn := dispatcher.turn(state.registry.order(), state.pool.live, apart):
            run, worker, size = turn
            suspect = run.frontier.suspects > 0
            keys = run.frontier.take(size)
            self._send(run, worker, keys)
            dispatcher.sent(worker, len(keys), suspect=suspect)

    def _send(self, run: RunState, worker: Member, keys: list[TileKey]) -> None:
        call = BatchCall(worker.slot, run.number, tuple(keys)).packed()
        if run.frontier.to_fill(keys[0]):
            ref = worker.handle.fill.remote(call)
        else:
            before = run.refs.spend(run.frontier.graph, keys)
            ref = worker.handle.run.remote(call, *before)
        allowed = run.deadlines.allowed(keys[0].level, len(keys))
        self._state.inflight[ref] = InflightCall(run, worker, keys, time.monotonic(), allowed)
        self._state.queue.expect(ref)

    def _collect(self) -> None:
        """Announce what is new, wait for something to happen, and act on it and on all that has
        happened by then.
        """
        self._state.registry.announce()
        events = self._wait()
        reports: dict[RunState, NamedReports] = {}
        try:
            for event in events:
                if not isinstance(event, Result):
                    continue
                taken = self._answers.take(event)
                if taken is not None:
                    call, report = taken
                    reports.setdefault(call.run, []).append((call.worker.name, report))
        finally:  # also when a death among them ends the run
            self._record(reports)
            for event in events:
                if isinstance(event, JournalSynced):
                    self._state.registry.synced(event)

    def _wait(self) -> list[DriverEvent]:
        """Return what has happened; wait for it, for a while."""
        queue = self._state.queue
        events: list[DriverEvent] = []
        if self._sleep and self._state.dispatcher.supplied:
            time.sleep(self._sleep)
            events = queue.look(poll_results)
        return events or queue.take(TICK_SECONDS)

    def _record(self, reports: dict[RunState, NamedReports]) -> None:
        """Have reports recorded: the disk is at it while what follows is dispatched."""
        if reports:
            took = [report.seconds for theirs in reports.values() for _, report in theirs]
            self._sleep = min(LONGEST_SLEEP, SLEEP_SHARE * min(took))
        for run, theirs in reports.items():
            if not run.over:
                run.put(theirs)

    def _close(self) -> None:
        """End the workers, count what became durable meanwhile, and give back the runs."""
        state = self._state
        until = time.monotonic() + LAST_RECORDS_SECONDS
        for run in state.registry.runs:
            run.recorder.close(max(until - time.monotonic(), 0.0))
        if not state.cluster.silent:
            state.pool.close()
        for event in state.queue.look():
            if isinstance(event, JournalSynced) and event.error is None:
                state.registry.synced(event)
        state.registry.announce()
        if state.cluster.silent:  # nobody listens to figures any more
            for run in state.registry.runs:
                run.flush = lambda: None
        if (error := sys.exception()) is not None:
            state.registry.end(error)
