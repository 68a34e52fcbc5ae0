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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from orchestrator.errors import PlanError, RunError
from orchestrator.events import WorkerLost, WorkerStarted
from orchestrator.grid import TileKey
from orchestrator.plan import Plan
from orchestrator.session import Session
from orchestrator.worker import Report, Worker

# Share of the ready and running tiles that one worker takes at most: below 1 so that a late worker still finds some
# (chosen from simulated makespans under 5 % jitter; see DESIGN.md).
FAIR_SHARE = 0.85
# Tiles a GPU takes at a time when the user does not say; a CPU gains nothing from batches.
GPU_BATCH = 8
# Worker deaths without a single commit in between, beyond one per worker, before the run is given up.
SPARE_DEATHS = 5
# Nothing but keys and reports is stored, bytes.
OBJECT_STORE_BYTES = 100_000_000
# How long a cluster's head may take to accept a connection, seconds.
KNOCK_SECONDS = 10.0

log = logging.getLogger(__name__)


class RayWorker:
    """A Worker behind Ray's calls."""

    def __init__(self, root: str, plan: Plan) -> None:
        self._worker = Worker(Path(root), plan)

    def ready(self) -> tuple[str, str]:
        """Return (host:pid, device)."""
        return f"{socket.gethostname()}:{os.getpid()}", str(self._worker.device)

    def run(self, keys: list[TileKey], *after: Report) -> Report:
        """Restore a batch; `after` are the reports of the tiles that it depends on."""
        return self._worker.run(keys)


@dataclass(slots=True)
class _Actor:
    handle: Any
    name: str = "starting"


@dataclass(slots=True)
class _Tokens:
    """References of committed tiles' reports, kept until every tile that waits for them has been dispatched."""

    refs: dict[TileKey, Any] = field(default_factory=dict)
    waiting: dict[TileKey, int] = field(default_factory=dict)

    def keep(self, session: Session, keys: tuple[TileKey, ...], ref: Any) -> None:
        for key in keys:
            if successors := len(session.frontier.graph.successors(key)):
                self.refs[key], self.waiting[key] = ref, successors

    def spend(self, session: Session, keys: list[TileKey]) -> list[Any]:
        """Return the distinct references that a batch depends on; a retried tile may find some already dropped."""
        found: dict[Any, None] = {}
        for key in keys:
            for before in session.frontier.graph.predecessors(key):
                if before in self.refs:
                    found[self.refs[before]] = None
                    self.waiting[before] -= 1
                    if self.waiting[before] <= 0:
                        del self.refs[before], self.waiting[before]
        return list(found)


class RayExecutor:
    """Run tiles on Ray actors: one per GPU where there are GPUs, CPU actors otherwise.

    address: of a running cluster, HOST:PORT or auto; None starts Ray on this machine. Raises PlanError when nobody
    answers there.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, batch: int | None = None, address: str | None = None) -> None:
        if address is not None:
            _knock(address)
        self.workers, self.batch, self.address = workers, batch, address
        self._inflight: dict[Any, tuple[_Actor, list[TileKey]]] = {}
        self._joining: dict[Any, _Actor] = {}
        self._idle: list[_Actor] = []
        self._tokens = _Tokens()
        self._deaths = 0

    def execute(self, session: Session) -> None:
        """Drive the session's frontier to its end; raises RunError when workers keep dying."""
        mine = self._connect()
        try:
            self._spawn_all(session)
            while session.frontier.ready or self._inflight:
                self._dispatch(session)
                self._collect(session)
        finally:
            self._close(mine)

    def _connect(self) -> bool:
        if ray.is_initialized():
            return False
        before = signal.getsignal(signal.SIGTERM)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self.address is None:
                cpus = max(self.workers or 1, os.cpu_count() or 1)
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
        self._on_gpu = gpus > 0
        most = gpus if self._on_gpu else cpus
        self._live = min(self.workers or most, most)
        if self.workers and self.workers > most:
            log.warning("%d workers asked for, the cluster has room for %d", self.workers, most)
        self._most = self.batch or (GPU_BATCH if self._on_gpu else 1)
        for _ in range(self._live):
            self._spawn(session)

    def _spawn(self, session: Session) -> None:
        # max_restarts=0: Ray's own restart is slower and keeps a poison tile on one actor; we requeue and replace.
        options = {"num_cpus": 1, "num_gpus": 1 if self._on_gpu else 0, "max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(RayWorker).options(**options).remote(str(session.run_dir.root.absolute()), session.plan)
        self._joining[actor.ready.remote()] = _Actor(actor)

    def _dispatch(self, session: Session) -> None:
        """Give idle workers fair batches; wait for one rather than send crumbs while others still run."""
        frontier = session.frontier
        while frontier.ready and self._idle:
            share = math.ceil(FAIR_SHARE * (frontier.ready + frontier.running) / max(self._live, 1))
            size = min(max(share, 1), self._most)
            if frontier.ready < size and self._inflight:
                return
            keys = frontier.take(size)
            actor = self._idle.pop(0)
            after = self._tokens.spend(session, keys)
            self._inflight[actor.handle.run.remote(keys, *after)] = (actor, keys)

    def _collect(self, session: Session) -> None:
        """Wait for the next report or joining worker, and act on it."""
        refs = [*self._inflight, *self._joining]
        if not refs:
            return
        done, _ = ray.wait(refs, num_returns=1, fetch_local=False)
        for ref in done:
            if ref in self._joining:
                self._joined(session, ref)
            else:
                self._reported(session, ref)

    def _joined(self, session: Session, ref: Any) -> None:
        actor = self._joining.pop(ref)
        try:
            actor.name, device = ray.get(ref)
        except RayError as err:
            self._lost(session, actor, f"did not start: {_first_line(err)}")
            return
        session.emit(WorkerStarted(worker=actor.name, device=device))
        self._idle.append(actor)

    def _reported(self, session: Session, ref: Any) -> None:
        actor, keys = self._inflight.pop(ref)
        try:
            report: Report = ray.get(ref)
        except RayTaskError as err:
            session.failed(actor.name, keys, _first_line(err.cause or err))
            self._idle.append(actor)
        except (RayActorError, GetTimeoutError, RayError) as err:
            session.failed(actor.name, keys, f"worker died: {_first_line(err)}")
            self._lost(session, actor, _first_line(err))
        else:
            self._deaths = 0
            session.committed(actor.name, report.keys, report.seconds, report.nfe, report.filled)
            self._tokens.keep(session, report.keys, ref)
            self._idle.append(actor)

    def _lost(self, session: Session, actor: _Actor, cause: str) -> None:
        session.emit(WorkerLost(worker=actor.name, cause=cause))
        self._deaths += 1
        if self._deaths > self._live + SPARE_DEATHS:
            raise RunError(f"workers died {self._deaths} times without finishing a tile; the last: {cause}")
        self._spawn(session)

    def _close(self, mine: bool) -> None:
        for actor in [*self._idle, *self._joining.values(), *(a for a, _ in self._inflight.values())]:
            ray.kill(actor.handle)
        self._idle, self._joining, self._inflight, self._tokens = [], {}, {}, _Tokens()
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
