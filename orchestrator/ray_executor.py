"""The Ray executor: the frontier's loop over actors. Keys and small reports travel through Ray, never pixels.

Every batch call carries the references of its predecessors' reports, so the edges of mask-shift restoration exist in
Ray's own task graph; they are resolved by then (the frontier saw them commit), so no call ever waits inside an actor.
A reference is dropped once every successor of its tiles has been dispatched.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator.actors import WorkerKind
from orchestrator.crew import Crew
from orchestrator.errors import PlanError, RunError
from orchestrator.events import BatchHalved, WorkerLost, WorkerStarted
from orchestrator.grid import TileKey
from orchestrator.mailbox import Durable, Mailbox, Recorder, Result
from orchestrator.ray_metrics import RayMetrics
from orchestrator.report import Report
from orchestrator.session import Session
from orchestrator.tokens import Tokens

# Tiles a GPU takes at a time when the user does not say; a CPU gains nothing from batches.
GPU_BATCH = 8
# Worker deaths without a single commit in between, beyond one per worker, before the run is given up.
SPARE_DEATHS = 5
# Calls that may be under way in a worker: `ready`, and batches, of which continuous ones may be of single tiles.
CALLS = 1000
# Nothing but keys and reports is stored, bytes.
OBJECT_STORE_BYTES = 100_000_000
# How long a cluster's head may take to accept a connection, seconds.
KNOCK_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Actor:
    handle: Any
    slot: int
    name: str = "starting"


class RayExecutor:
    """Run tiles on Ray actors: one per GPU where there are GPUs, CPU actors otherwise.

    address: of a running cluster, HOST:PORT or auto; None starts Ray on this machine. Raises PlanError when nobody
    answers there.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None = None,
        batch: int | None = None,
        address: str | None = None,
        kind: WorkerKind | None = None,
        batching: str | None = None,
    ) -> None:
        if address is not None:
            _knock(address)
        self.workers, self.batch, self.address = workers, batch, address
        self._continuous = batching == "continuous"
        self._kind = kind or WorkerKind()
        self._spare: list[_Actor] = []
        self._gathering = self._kind.gather
        self._inflight: dict[Any, tuple[_Actor, list[TileKey]]] = {}
        self._joining: dict[Any, _Actor] = {}
        self._crew: Crew[_Actor] = Crew(1, self._continuous)
        self._mailbox = Mailbox()
        self._tokens = Tokens()
        self._deaths = 0
        self._proven = False  # a worker has started: later deaths are bad luck rather than a setting that cannot work

    def execute(self, session: Session) -> None:
        """Drive the session's frontier to its end; raises RunError when workers keep dying."""
        mine = self._connect()
        self._recorder = Recorder(session.record, self._mailbox)
        try:
            session.listeners.append(
                RayMetrics(str(session.run_dir.root), session.frontier.total - session.frontier.done)
            )
            self._spawn_all(session)
            while session.frontier.ready or session.frontier.running:
                self._dispatch(session)
                self._collect(session)
        finally:
            self._close(session, mine)

    def _connect(self) -> bool:
        if ray.is_initialized():
            return False
        before = signal.getsignal(signal.SIGTERM)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self.address is None:
                cpus = max(math.ceil((self.workers or 1) / self._kind.slots), os.cpu_count() or 1)
                ray.init(
                    address="local",  # whatever RAY_ADDRESS says: a cluster is used when --address names it
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _system_config={"worker_niceness": 0},  # Ray's default of 15 starves workers on a busy machine
                    **quiet,
                )
            else:
                ray.init(address=self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, RayError) as err:
            where = self.address or "this machine"
            raise RunError(f"cannot start or reach Ray on {where}: {_first_line(err)}; check --address") from None
        except SystemExit:  # Ray's own answer to a SIGTERM while it starts
            raise KeyboardInterrupt from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray's handler would end the driver before the log is closed
        return True

    def _spawn_all(self, session: Session) -> None:
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        self._on_gpu = gpus > 0 and self._kind.gpus
        most = (gpus if self._on_gpu else cpus) * self._kind.slots
        self._live = min(self.workers or most, most)
        if self.workers and self.workers > most:
            log.warning("%d workers asked for, the cluster has room for %d", self.workers, most)
        self._most = self.batch or (GPU_BATCH if self._on_gpu else 1)
        self._crew = Crew(self._most, self._continuous)
        for _ in range(self._live):
            self._spawn(session)

    def _spawn(self, session: Session) -> None:
        # max_restarts=0: Ray's own restart is slower and keeps a poison tile on one actor; we requeue and replace.
        if not self._spare:
            options = {"num_cpus": 1, "num_gpus": 1 if self._on_gpu else 0, "max_restarts": 0, "max_task_retries": 0}
            options["max_concurrency"] = self._kind.slots * CALLS
            arguments = self._kind.arguments(session, self._most, self._continuous)
            handle = ray.remote(self._kind.actor).options(**options).remote(*arguments)
            self._spare = [_Actor(handle, slot) for slot in range(self._kind.slots)]
        actor = self._spare.pop()
        ref = actor.handle.ready.remote()
        self._joining[ref] = actor
        self._mailbox.expect(ref)

    def _dispatch(self, session: Session) -> None:
        """Give workers what is ready, as the crew says."""
        frontier = session.frontier
        if self._gathering and self._joining:
            return
        self._gathering = False
        while turn := self._crew.turn(frontier, self._live):
            actor, size = turn
            suspect = frontier.suspects > 0
            keys = frontier.take(size)
            after = self._tokens.spend(frontier.graph, keys)
            plain = [list(key) for key in keys]  # what Ray sends without pickling
            ref = actor.handle.run.remote(actor.slot, plain, *after)
            self._crew.sent(actor, len(keys), suspect=suspect)
            self._inflight[ref] = (actor, keys)
            self._mailbox.expect(ref)

    def _collect(self, session: Session) -> None:
        """Wait for something to happen, and act on it and on all that has happened by then."""
        reports: list[tuple[str, Report]] = []
        try:
            for letter in self._mailbox.take():
                if isinstance(letter, Durable):
                    self._durable(session, letter)
                elif letter.ref in self._joining:
                    self._joined(session, letter)
                elif report := self._reported(session, letter):
                    reports.append(report)
        finally:  # also when a death among them ends the run
            if reports:
                self._recorder.put(reports)

    def _durable(self, session: Session, letter: Durable) -> None:
        self._recorder.pending -= len(letter.reports)
        if letter.error is not None:
            raise letter.error
        session.release(letter.reports)

    def _joined(self, session: Session, letter: Result) -> None:
        actor = self._joining.pop(letter.ref)
        try:
            actor.name, device = letter.answer.result()
        except RayError as err:
            self._lost(session, actor, f"did not start: {_first_line(err)}")
            return
        self._proven = True
        session.emit(WorkerStarted(worker=actor.name, device=device))
        self._crew.join(actor)

    def _reported(self, session: Session, letter: Result) -> tuple[str, Report] | None:
        """Return a worker's name and report; None when it has none, because it failed or died."""
        actor, keys = self._inflight.pop(letter.ref)
        self._crew.back(actor, len(keys))
        try:
            report = Report.of(keys, letter.answer.result())
        except RayTaskError as err:
            session.failed(actor.name, keys, _first_line(err.cause or err))
        except RayError as err:
            session.failed(actor.name, keys, f"worker died: {_first_line(err)}")
            if actor in self._crew:  # else another of its batches has said so
                self._crew.leave(actor)
                self._lost(session, actor, _first_line(err))
        else:
            self._deaths = 0
            self._tokens.keep(session.frontier.graph, report.keys, letter.ref)
            if report.limit is not None and self._crew.limit(actor, report.limit):
                session.emit(BatchHalved(worker=actor.name, batch=report.limit))
            return actor.name, report
        return None

    def _lost(self, session: Session, actor: _Actor, cause: str) -> None:
        session.emit(WorkerLost(worker=actor.name, cause=cause))
        self._spare = [spare for spare in self._spare if spare.handle is not actor.handle]
        self._deaths += 1
        if self._deaths > self._live + (SPARE_DEATHS if self._proven else 0):
            raise RunError(f"workers died {self._deaths} times without finishing a tile; the last: {cause}")
        self._spawn(session)

    def _close(self, session: Session, mine: bool) -> None:
        self._recorder.close()
        actors = [*self._crew, *self._joining.values(), *(actor for actor, _ in self._inflight.values())]
        for handle in {id(actor.handle): actor.handle for actor in actors}.values():
            ray.kill(handle)
        if self._recorder.pending:  # what became durable while the run was ending
            for letter in self._mailbox.take():
                if isinstance(letter, Durable) and letter.error is None:
                    session.release(letter.reports)
        self._crew, self._joining, self._inflight, self._tokens = Crew(1, self._continuous), {}, {}, Tokens()
        self._mailbox = Mailbox()
        if mine:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise PlanError when nothing listens at HOST:PORT; Ray itself would try for five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto", or something that Ray itself refuses at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
    except (OSError, OverflowError) as err:
        raise PlanError(f"no Ray cluster answers at {address} ({err}); check --address, or leave it out") from None


def _first_line(err: BaseException) -> str:
    """Return what went wrong on one line: of a remote traceback the last line, which names the error."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1] if lines else type(err).__name__
