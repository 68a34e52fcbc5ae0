"""The Ray executor: the frontier's loop over actors. Keys and small reports travel through Ray,
never pixels.

It serves one run or several at a time: they share the actors, each of which opens every run once.
What goes wrong with a run ends that run; what goes wrong with the actors or the cluster ends all.

Every batch call carries the references of its predecessors' reports, so the edges of mask-shift
restoration exist in Ray's own task graph; they are resolved by then (the frontier saw them commit),
so no call ever waits inside an actor. A reference is dropped once every successor of its tiles has
been dispatched.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError, RayTaskError

from orchestrator.errors import WorkerBroken
from orchestrator.events import BatchHalved, Draining
from orchestrator.ray_backend.actor_pool import Member, Pool
from orchestrator.ray_backend.actors import WorkerKind
from orchestrator.ray_backend.connection import connected, first_line, knock
from orchestrator.ray_backend.event_queue import (
    DriverEvent,
    EventQueue,
    JournalSynced,
    Result,
    Wakeup,
)
from orchestrator.ray_backend.poll import answers
from orchestrator.ray_backend.prometheus import RayMetrics
from orchestrator.ray_backend.run_registry import RunRegistry
from orchestrator.ray_backend.run_state import RunState
from orchestrator.retry import disk_full
from orchestrator.run.run_queue import RunQueue
from orchestrator.run.session import Session
from orchestrator.scheduling.batch_policy import CPU_BATCH, GPU_BATCH
from orchestrator.scheduling.dispatcher import Dispatcher
from orchestrator.shutdown import Stop
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_report import Report
from orchestrator.worker.batch_request import BatchCall

# How often deadlines, signals and the cluster are looked at, seconds.
TICK_SECONDS = 0.5
# While every worker has its next batch in hand nobody waits for this process: it sleeps on for this
# share of what the shortest of the last batches took, at most so many seconds, and acts in one go
# on what was reported meanwhile (docs/RESULTS.md).
NAP_SHARE = 0.5
LONGEST_NAP = 0.1
# How long the records of what was reported may take to be written when a run is ended, seconds; a
# store that fails then is not waited for: whoever ends it has waited already, and what is not
# recorded is restored again.
LAST_RECORDS_SECONDS = 5.0
# A longer pause between two looks means that this process stood still (stopped, suspended, waiting
# for a disk): then what it waits for is not late, seconds.
STILL_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _InflightCall:
    """A batch under way on a worker."""

    lane: RunState
    worker: Member
    keys: list[TileKey]
    began: float
    allowed: float
    """Seconds after which the worker counts as hung."""

    def silence(self, now: float) -> float:
        """Return the seconds since it was sent, or since the worker reported the batch before it."""
        return now - max(self.began, self.worker.heard)


class RayExecutor:
    """Run tiles on Ray actors: one per GPU where there are GPUs, CPU actors otherwise.

    address: of a running cluster, HOST:PORT or auto; None starts Ray on this machine. stop: who may
    ask to end. Raises PlanError when nobody answers there.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None = None,
        batch: int | None = None,
        address: str | None = None,
        kind: WorkerKind | None = None,
        stop: Stop | None = None,
    ) -> None:
        if address is not None:
            knock(address)
        self.workers = workers
        self.batch = batch
        self.address = address
        self._kind = kind or WorkerKind()
        self._stop = stop or Stop()
        self._gathering = self._kind.gather
        self._reset()

    def _reset(self) -> None:
        self._inflight: dict[Any, _InflightCall] = {}
        self._crew: Dispatcher[Member] = Dispatcher(1)
        self._mailbox = EventQueue()
        self._roster = RunRegistry(self._mailbox)
        self._nap = 0.0

    def execute(self, session: Session) -> None:
        """Drive the session's frontier to its end.

        Raises RunError when workers keep dying or the cluster is gone, OSError when the disk is
        full, KeyboardInterrupt when asked to stop.
        """
        arrivals = RunQueue()
        ended = arrivals.put(session)
        arrivals.close()
        self.serve(arrivals)
        ended.result()

    def serve(self, arrivals: RunQueue) -> None:
        """Drive the frontiers of all sessions that arrive to their ends, all of them on the same
        workers.

        Raises RunError when workers keep dying or the cluster is gone, KeyboardInterrupt when asked
        to stop; all sessions then end with it.
        """
        try:
            if not arrivals.wait():
                return
            cpus = math.ceil((self.workers or 1) / self._kind.slots)
            with connected(self.address, cpus, self._stop) as cluster:
                self._pool = Pool(self._kind, cluster, self.workers, self._roster.tell_lost)
                most = self.batch or (GPU_BATCH if self._pool.on_gpu else CPU_BATCH)
                self._crew = Dispatcher(most)
                self._cluster = cluster
                self._ticked = time.monotonic()
                self._roster.follow(arrivals)
                arrivals.bell = lambda: self._mailbox.put(Wakeup())
                try:
                    with self._stop.draining():
                        self._loop(arrivals)
                finally:
                    self._close()
        except BaseException as err:
            arrivals.refuse(err)
            raise
        finally:
            self._reset()

    def _loop(self, arrivals: RunQueue) -> None:
        while not (self._stop.requested or (arrivals.exhausted and not self._roster.lanes)):
            self._admit(arrivals)
            for ref in self._pool.fill():
                self._mailbox.expect(ref)
            self._dispatch()
            self._collect()
            self._tick()
            self._roster.settle()
        if self._stop.requested:
            for lane in self._roster.lanes:
                lane.session.emit(Draining(batches=len(self._inflight), seconds=self._stop.seconds))
                lane.recorder.hurry()
            while not self._stop.overdue and any(lane.draining for lane in self._roster.lanes):
                self._collect()
                self._tick()
            raise KeyboardInterrupt

    def _admit(self, arrivals: RunQueue) -> None:
        for session, ended in arrivals.take():
            metrics = RayMetrics(str(session.output), session.left)
            session.listeners.append(metrics)
            self._roster.admit(session, ended).flush = metrics.flush

    def _dispatch(self) -> None:
        """Give workers what is ready, as the crew says."""
        if self._gathering and (self._pool.joining or self._roster.opening):
            return
        self._gathering = False
        self._roster.try_suspect(self._crew.busy)
        apart = self._roster.apart()
        while turn := self._crew.turn(self._roster.order(), self._pool.live, apart):
            lane, worker, size = turn
            suspect = lane.frontier.suspects > 0
            keys = lane.frontier.take(size)
            self._send(lane, worker, keys)
            self._crew.sent(worker, len(keys), suspect=suspect)

    def _send(self, lane: RunState, worker: Member, keys: list[TileKey]) -> None:
        call = BatchCall(worker.slot, lane.number, tuple(keys)).packed()
        if lane.frontier.to_fill(keys[0]):
            ref = worker.handle.fill.remote(call)
        else:
            ref = worker.handle.run.remote(call, *lane.tokens.spend(lane.frontier.graph, keys))
        allowed = lane.deadlines.allowed(keys[0].level, len(keys))
        self._inflight[ref] = _InflightCall(lane, worker, keys, time.monotonic(), allowed)
        self._mailbox.expect(ref)

    def _collect(self) -> None:
        """Announce what is new, wait for something to happen, and act on it and on all that has
        happened by then.
        """
        self._roster.announce()
        letters: list[DriverEvent] = []
        if self._nap and self._crew.supplied:
            time.sleep(self._nap)
            letters = self._mailbox.look(answers)
        letters = letters or self._mailbox.take(TICK_SECONDS)
        reports: dict[RunState, list[tuple[str, Report]]] = {}
        try:
            for letter in letters:
                if isinstance(letter, JournalSynced | Wakeup):  # the loop looks who rang
                    continue
                if letter.ref in self._pool.joining:
                    self._joined(letter)
                elif letter.ref in self._roster.opening:
                    self._opened(letter)
                elif (call := self._inflight.pop(letter.ref, None)) and (
                    report := self._reported(call, letter)
                ):
                    reports.setdefault(call.lane, []).append(report)
        finally:  # also when a death among them ends the run
            if reports:
                took = (report.seconds for theirs in reports.values() for _, report in theirs)
                self._nap = min(LONGEST_NAP, NAP_SHARE * min(took))
            for (
                lane,
                theirs,
            ) in (
                reports.items()
            ):  # first of all: the disk is at it while what follows is dispatched
                if not lane.over:
                    lane.put(theirs)
            for letter in letters:
                if isinstance(letter, JournalSynced):
                    self._roster.durable(letter)

    def _joined(self, letter: Result) -> None:
        if worker := self._pool.joined(letter.ref, letter.answer):
            self._crew.join(worker)
            self._roster.join(worker)

    def _opened(self, letter: Result) -> None:
        """Count on a worker for a run, or note that it cannot take it."""
        _, worker = self._roster.opening[letter.ref]
        try:
            letter.answer.result()
        except RayTaskError as err:
            error = err.cause or err
            if isinstance(error, WorkerBroken):
                self._died(worker, [], first_line(error), kill=True)
            else:
                self._roster.refused(letter.ref, first_line(error), more=bool(self._pool.joining))
        except RayError as err:
            self._died(worker, [], first_line(err))
        else:
            self._pool.proven = True
            self._roster.opened(letter.ref)

    def _reported(self, call: _InflightCall, letter: Result) -> tuple[str, Report] | None:
        """Return a worker's name and report; None when it has none, because it failed or died, or
        nobody waits for it.
        """
        lane = call.lane
        worker = call.worker
        worker.heard = time.monotonic()
        self._crew.back(worker, len(call.keys))
        try:
            report = Report.of(call.keys, letter.answer.result())
        except RayTaskError as err:
            self._failed(call, err.cause or err)
            return None
        except RayError as err:
            self._died(worker, [call], first_line(err))
            return None
        self._pool.progress()
        news = report.limit is not None and self._crew.limit(worker, report.limit)
        if lane.over:
            return None
        self._crew.done(lane, report.keys)
        if report.nfe:
            lane.deadlines.ended(
                report.keys[0].level, len(report.keys), time.monotonic() - call.began
            )
        lane.tokens.keep(lane.frontier.graph, report.keys, letter.ref)
        if news and report.limit is not None:
            lane.session.emit(BatchHalved(worker=worker.name, batch=report.limit))
        return worker.name, report

    def _failed(self, call: _InflightCall, error: BaseException) -> None:
        """Act on an error that a worker reported: it lives, but a broken one is not used again."""
        if isinstance(error, WorkerBroken):
            self._died(call.worker, [call], first_line(error), kill=True)
        elif not call.lane.over:
            with self._roster.concerning(call.lane):
                if disk_full(error):
                    raise error
                self._crew.failed(call.lane, call.worker, call.keys)
                if call.lane.session.failed(call.worker.name, call.keys, first_line(error)):
                    self._pool.progress()

    def _died(
        self, worker: Member, calls: Sequence[_InflightCall], cause: str, *, kill: bool = False
    ) -> None:
        """Act on a worker's death: all its batches have failed, or have been taken from it with its
        machine.
        """
        gone = self._cluster.lost(worker.node)
        others = [
            ref for ref, other in self._inflight.items() if other.worker.handle is worker.handle
        ]
        under_way = [*calls, *(self._inflight.pop(ref) for ref in others)]
        for call in under_way:
            if not call.lane.over:
                with self._roster.concerning(call.lane):
                    session = call.lane.session
                    name = call.worker.name
                    if gone:
                        session.returned(name, call.keys, f"its machine is gone: {cause}")
                    elif session.failed(name, call.keys, f"worker died: {cause}"):
                        self._pool.progress()
        if not gone and self._roster.blame(worker, cause, self._pool.live, beside=bool(under_way)):
            self._pool.progress()
        for lost in [member for member in self._crew if member.handle is worker.handle]:
            self._crew.leave(lost)
            self._pool.lost(lost, cause, kill=kill, gone=gone)
            self._roster.leave(lost)

    def _tick(self) -> None:
        """Look now and then whether a batch is overdue, the cluster gone, or another attempt has
        taken over.
        """
        now = time.monotonic()
        still = now - self._ticked
        if still < TICK_SECONDS:
            return
        self._ticked = now
        for lane in self._roster.lanes:
            lane.flush()
        if still > STILL_SECONDS:
            self._cluster.credit(still)
            for call in self._inflight.values():
                call.began += still
            for worker in self._crew:
                worker.heard += still
            self._roster.credit(still)
            return
        for lane in list(self._roster.lanes):
            with self._roster.concerning(lane):
                lane.session.check_attempt()
        self._cluster.check()
        for worker in [worker for worker in self._crew if self._cluster.given_up(worker.node)]:
            # No call tells of a worker that had nothing to do, and none would take its place when
            # its machine is back.
            self._died(worker, [], "the cluster has given it up")
        for worker in self._roster.late(now):
            self._died(worker, [], "it did not get ready for a run in time", kill=True)
        self._roster.check_takers(
            more=bool(self._pool.joining) or self._pool.live < self._pool.target
        )
        firsts: dict[Member, Any] = {}
        for ref, call in self._inflight.items():  # what waits behind another batch is not late
            firsts.setdefault(call.worker, ref)
        late = next(
            (
                ref
                for ref in firsts.values()
                if self._inflight[ref].silence(now) > self._inflight[ref].allowed
            ),
            None,
        )
        if late is not None:  # others, if there are any, at the next look
            call = self._inflight.pop(late)
            usual = call.lane.deadlines.usual(call.keys[0].level, len(call.keys))
            known = "" if usual is None else f", usually {usual:.1f} s"
            self._died(
                call.worker, [call], f"no report for {call.silence(now):.0f} s{known}", kill=True
            )

    def _close(self) -> None:
        until = time.monotonic() + LAST_RECORDS_SECONDS
        for lane in self._roster.lanes:
            lane.recorder.close(max(until - time.monotonic(), 0.0))
        if not self._cluster.silent:
            self._pool.close()
        for letter in self._mailbox.look():  # what became durable while the runs were ending
            if isinstance(letter, JournalSynced) and letter.error is None:
                self._roster.durable(letter)
        self._roster.announce()
        if self._cluster.silent:  # nobody listens to figures any more
            for lane in self._roster.lanes:
                lane.flush = lambda: None
        if (error := sys.exception()) is not None:
            self._roster.end(error)
