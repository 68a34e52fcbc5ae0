"""The Ray executor: the frontier's loop over actors. Keys and small reports travel through Ray, never pixels.

Every batch call carries the references of its predecessors' reports, so the edges of mask-shift restoration exist in
Ray's own task graph; they are resolved by then (the frontier saw them commit), so no call ever waits inside an actor.
A reference is dropped once every successor of its tiles has been dispatched.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError, RayTaskError

from orchestrator.actors import WorkerKind
from orchestrator.crew import Crew
from orchestrator.deadlines import Deadlines
from orchestrator.errors import WorkerBroken
from orchestrator.events import BatchHalved, Draining
from orchestrator.grid import TileKey
from orchestrator.mailbox import Durable, Mailbox, Recorder, Result
from orchestrator.patience import disk_full
from orchestrator.policy import CPU_BATCH, GPU_BATCH
from orchestrator.ray_cluster import Cluster, connected, first_line, knock
from orchestrator.ray_metrics import RayMetrics
from orchestrator.ray_pool import Member, Pool
from orchestrator.report import Report
from orchestrator.session import Session
from orchestrator.stopping import Stop
from orchestrator.tokens import Tokens

# How often deadlines, signals and the cluster are looked at, seconds.
TICK_SECONDS = 0.5
# A longer pause between two looks means that this process stood still (stopped, suspended, waiting for a disk): then
# what it waits for is not late, seconds.
STILL_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Call:
    """A batch under way on a worker."""

    worker: Member
    keys: list[TileKey]
    began: float
    allowed: float
    """Seconds after which the worker counts as hung."""


class RayExecutor:
    """Run tiles on Ray actors: one per GPU where there are GPUs, CPU actors otherwise.

    address: of a running cluster, HOST:PORT or auto; None starts Ray on this machine. stop: who may ask to end.
    Raises PlanError when nobody answers there.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None = None,
        batch: int | None = None,
        address: str | None = None,
        kind: WorkerKind | None = None,
        batching: str | None = None,
        stop: Stop | None = None,
    ) -> None:
        if address is not None:
            knock(address)
        self.workers, self.batch, self.address = workers, batch, address
        self._continuous = batching == "continuous"
        self._kind, self._stop = kind or WorkerKind(), stop or Stop()
        self._gathering = self._kind.gather
        self._reset()

    def _reset(self) -> None:
        self._inflight: dict[Any, _Call] = {}
        self._crew: Crew[Member] = Crew(1, self._continuous)
        self._mailbox = Mailbox()
        self._tokens = Tokens()
        self._news: list[tuple[str, Report]] = []  # released, not announced

    def execute(self, session: Session) -> None:
        """Drive the session's frontier to its end.

        Raises RunError when workers keep dying, the disk is full or the cluster is gone, KeyboardInterrupt when asked
        to stop.
        """
        cpus = math.ceil((self.workers or 1) / self._kind.slots)
        with connected(self.address, cpus, self._stop) as cluster:
            self._pool = Pool(session, self._kind, cluster, self.workers)
            most = self.batch or (GPU_BATCH if self._pool.on_gpu else CPU_BATCH)
            self._crew = Crew(most, self._continuous)
            self._pool.arguments = self._kind.arguments(session, most, self._continuous)
            self._pool.calls = self._crew.calls
            self._deadlines = Deadlines(session.plan.spec.run.hang_seconds + session.plan.spec.run.store_seconds)
            self._recorder = Recorder(session.record, self._mailbox)
            self._ticked = time.monotonic()
            left = session.frontier.total - session.frontier.done
            self._metrics = RayMetrics(str(session.run_dir.root), left)
            session.listeners.append(self._metrics)
            try:
                with self._stop.draining():
                    self._loop(session, cluster)
            finally:
                self._close(session, cluster)

    def _loop(self, session: Session, cluster: Cluster) -> None:
        while (session.frontier.ready or session.frontier.running) and not self._stop.requested:
            for ref in self._pool.fill():
                self._mailbox.expect(ref)
            self._dispatch(session)
            self._collect(session, cluster)
            self._tick(session, cluster)
        if self._stop.requested:
            session.emit(Draining(batches=len(self._inflight), seconds=self._stop.seconds))
            while session.frontier.running:
                self._collect(session, cluster)
                self._tick(session, cluster)
            raise KeyboardInterrupt

    def _dispatch(self, session: Session) -> None:
        """Give workers what is ready, as the crew says."""
        frontier = session.frontier
        if self._gathering and self._pool.joining:
            return
        self._gathering = False
        while turn := self._crew.turn(frontier, self._pool.live):
            worker, size = turn
            suspect = frontier.suspects > 0
            keys = frontier.take(size)
            self._send(session, worker, keys)
            self._crew.sent(worker, len(keys), suspect=suspect)

    def _send(self, session: Session, worker: Member, keys: list[TileKey]) -> None:
        plain = [list(key) for key in keys]  # what Ray sends without pickling
        if session.frontier.to_fill(keys[0]):
            ref = worker.handle.fill.remote(worker.slot, plain)
        else:
            after = self._tokens.spend(session.frontier.graph, keys)
            ref = worker.handle.run.remote(worker.slot, plain, *after)
        allowed = self._deadlines.allowed(keys[0].level, len(keys))
        self._inflight[ref] = _Call(worker, keys, time.monotonic(), allowed)
        self._mailbox.expect(ref)

    def _collect(self, session: Session, cluster: Cluster) -> None:
        """Announce what is new, wait for something to happen, and act on it and on all that has happened by then."""
        self._announce(session)
        letters = self._mailbox.take(TICK_SECONDS)
        reports: list[tuple[str, Report]] = []
        try:
            for letter in letters:
                if isinstance(letter, Durable):
                    continue
                if letter.ref in self._pool.joining:
                    self._joined(letter)
                elif letter.ref in self._inflight and (report := self._reported(session, cluster, letter)):
                    reports.append(report)
        finally:  # also when a death among them ends the run
            if reports:  # first of all: the disk is at it while what follows is dispatched
                self._recorder.put(reports)
            for letter in letters:
                if isinstance(letter, Durable):
                    self._durable(session, letter)

    def _durable(self, session: Session, letter: Durable) -> None:
        self._recorder.pending -= len(letter.reports)
        if letter.error is not None:
            raise letter.error
        self._release(session, letter)

    def _release(self, session: Session, letter: Durable) -> None:
        session.release(letter.reports)
        self._news += letter.reports

    def _announce(self, session: Session) -> None:
        """Tell of what was released: after what it released has been sent, whose workers wait for it."""
        news, self._news = self._news, []
        if news:
            session.announce(news)

    def _joined(self, letter: Result) -> None:
        if worker := self._pool.joined(letter.ref, letter.answer):
            self._crew.join(worker)

    def _reported(self, session: Session, cluster: Cluster, letter: Result) -> tuple[str, Report] | None:
        """Return a worker's name and report; None when it has none, because it failed or died."""
        call = self._inflight.pop(letter.ref)
        worker = call.worker
        self._crew.back(worker, len(call.keys))
        try:
            report = Report.of(call.keys, letter.answer.result())
        except RayTaskError as err:
            self._failed(session, cluster, call, err.cause or err)
        except RayError as err:
            self._died(session, cluster, call, first_line(err))
        else:
            self._pool.progress()
            self._crew.done(report.keys)
            if report.nfe:
                self._deadlines.ended(report.keys[0].level, len(report.keys), time.monotonic() - call.began)
            self._tokens.keep(session.frontier.graph, report.keys, letter.ref)
            if report.limit is not None and self._crew.limit(worker, report.limit):
                session.emit(BatchHalved(worker=worker.name, batch=report.limit))
            return worker.name, report
        return None

    def _failed(self, session: Session, cluster: Cluster, call: _Call, error: BaseException) -> None:
        """Act on an error that a worker reported: it lives, but a broken one is not used again."""
        if disk_full(error):
            raise error
        if isinstance(error, WorkerBroken):
            self._died(session, cluster, call, first_line(error), kill=True)
            return
        self._crew.failed(call.worker, call.keys)
        if session.failed(call.worker.name, call.keys, first_line(error)):
            self._pool.progress()

    def _died(self, session: Session, cluster: Cluster, call: _Call, cause: str, *, kill: bool = False) -> None:
        """Act on a worker's death: all its batches have failed, or have been taken from it with its machine."""
        worker = call.worker
        gone = cluster.lost(worker.node)
        others = [ref for ref, other in self._inflight.items() if other.worker.handle is worker.handle]
        calls = [call, *(self._inflight.pop(ref) for ref in others)]
        for lost in calls:
            if gone:
                session.returned(lost.worker.name, lost.keys, f"its machine is gone: {cause}")
            elif session.failed(lost.worker.name, lost.keys, f"worker died: {cause}"):
                self._pool.progress()
        for member in {c.worker: None for c in calls}:
            self._crew.leave(member)
            self._pool.lost(member, cause, kill=kill, gone=gone)

    def _tick(self, session: Session, cluster: Cluster) -> None:
        """Look now and then whether a batch is overdue, the cluster gone, or another attempt has taken over."""
        now = time.monotonic()
        still = now - self._ticked
        if still < TICK_SECONDS:
            return
        self._ticked = now
        self._metrics.flush()
        if still > STILL_SECONDS:
            cluster.credit(still)
            for call in self._inflight.values():
                call.began += still
            return
        session.fence()
        cluster.check()
        overdue = next(((r, c) for r, c in self._inflight.items() if now - c.began > c.allowed), None)
        if overdue is not None:  # others, if there are any, at the next look
            ref, call = overdue
            del self._inflight[ref]
            usual = self._deadlines.usual(call.keys[0].level, len(call.keys))
            known = "" if usual is None else f", usually {usual:.1f} s"
            self._died(session, cluster, call, f"no report for {now - call.began:.0f} s{known}", kill=True)

    def _close(self, session: Session, cluster: Cluster) -> None:
        self._recorder.close()
        if not cluster.silent:
            self._pool.close()
        if self._recorder.pending:  # what became durable while the run was ending
            for letter in self._mailbox.take(0):
                if isinstance(letter, Durable) and letter.error is None:
                    self._release(session, letter)
        self._announce(session)
        if not cluster.silent:
            self._metrics.flush()
        self._reset()
