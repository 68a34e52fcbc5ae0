"""`bench scheduler`: the product's Ray executor with workers that only let time pass, against the
simulator's ideal.

Everything but the network is real: frontier, policy, Ray's actors and calls, session, journal with
its fsyncs, event log. A simulated worker sleeps per_call + per_tile x tiles seconds, give or take a
jitter that the simulator repeats. What the scheduler promises is checked row by row: ok, MISSED, or
- where it does not apply.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cluster.bench.scheduler_timing import (
    AGAINST_BOUND,
    AGAINST_IDEAL,
    AGAINST_IDEAL_LONG,
    LONG_SECONDS,
    PROMISED_WORKERS,
    WARM,
    SchedulerTiming,
)
from cluster.bench.simulated_workers import SimulatedWorker
from orchestrator.errors import PlanError
from orchestrator.event_log import EventLog
from orchestrator.events import BatchCommitted, Event, WorkerStarted
from orchestrator.job.plan import Plan
from orchestrator.job.spec import JobSpec
from orchestrator.job.trajectory import trajectory
from orchestrator.planning.forecast import forecast, known_device
from orchestrator.planning.resolve import plan_job
from orchestrator.ray_backend.actors import WorkerKind
from orchestrator.run.session import Session
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import Frontier
from orchestrator.scheduling.simulator import Device, simulate
from orchestrator.shutdown import Stop
from orchestrator.tiling.parallelism import BUSY_SHARE, waves
from orchestrator.tiling.task_graph import TaskGraph
from storage.run_store.journal import Journal

if TYPE_CHECKING:
    from orchestrator.ray_backend.bare_calls import Bare

# Processes that the simulated workers share at most, unless told otherwise: each is a Python of 90
# MB, and wants a core too.
PROCESSES = 8
TILE = 256
STRIDE = 192
# How long bare calls of Ray are measured beside a run, s.
BARE_SECONDS = 3.0


class _Meter:
    """A listener that reads clock, CPU time and memory when the last worker has joined and as tiles
    are committed.
    """

    def __init__(self, workers: int, tiles: int) -> None:
        self._missing = workers
        self._left = tiles
        self._warm = (1 - WARM) * tiles
        self._process = psutil.Process()
        self.first = self.last = (0.0, 0.0)
        self.memory = [0, 0, 0]
        """When all had joined, when warm, at the end."""
        self.batches = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, WorkerStarted):
            self._missing -= 1
            if self._missing == 0:
                self.memory[0] = self._rss()
                self.first = self.last = self._times()
        elif isinstance(event, BatchCommitted):
            self.batches += 1
            self._left -= len(event.keys)
            if not self.memory[1] and self._left <= self._warm:
                self.memory[1] = self._rss()
            if not self._left:
                self.last = self._times()

    def end(self) -> None:
        self.memory[2] = self._rss()

    def _times(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _rss(self) -> int:
        return int(self._process.memory_info().rss)


class _TimedJournal:
    """The journal, and how long it took."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.seconds = 0.0

    def append(self, records: Sequence[str]) -> None:
        began = time.perf_counter()
        self._journal.append(records)
        self.seconds += time.perf_counter() - began


def grid_plan(rows: int, cols: int, order: str) -> Plan:
    """Return a plan of rows x cols tiles on one level; raises PlanError for what cannot be laid."""
    if not rows or not cols:
        raise PlanError(f"--tiles {rows}x{cols} has none; give for example 64x128")
    size = (TILE + STRIDE * (rows - 1), TILE + STRIDE * (cols - 1))
    tiling = {"tile": TILE, "stride": STRIDE, "levels": 1, "order": order}
    job = {"input": {"size": size}, "task": {"name": "generate"}, "tiling": tiling}
    return plan_job(JobSpec.build(job))


def simulated(device: Device, workers: int, processes: int = PROCESSES) -> WorkerKind:
    """Return workers that only let time pass, in so many processes at most."""
    slots = max(2, math.ceil(workers / processes))
    return WorkerKind(
        actor=SimulatedWorker,
        arguments=(device, slots),
        slots=slots,
        gpus=False,
        gather=True,
    )


def measure(
    plan: Plan,
    device: Device,
    workers: int,
    batch: int,
    processes: int = PROCESSES,
) -> SchedulerTiming:
    """Run a plan's tiles once on simulated workers; return what it took and what it should take.

    batch: tiles per call of a worker.
    """
    graph = plan.graph()
    ideal = simulate(graph, device, workers, batch)
    kind = simulated(device, workers, processes)
    run = _run_once(plan, graph, kind, workers, batch, processes)

    parallelism = waves([level.grid for level in plan.levels]).mean
    keeps_busy = workers * batch <= BUSY_SHARE * parallelism
    long_batches = device.per_call + batch * device.per_tile >= LONG_SECONDS
    against_ideal = AGAINST_IDEAL_LONG if long_batches else AGAINST_IDEAL
    (began, cpu_before), (ended, cpu_after) = run.meter.first, run.meter.last
    joined, warm, done = run.meter.memory
    return SchedulerTiming(
        workers=workers,
        processes=math.ceil(workers / kind.slots),
        tiles=graph.count,
        batches=run.meter.batches,
        makespan=ended - began,
        ideal=ideal.makespan,
        forecast=_forecast(plan, device, workers, batch),
        bound=ideal.bound,
        promised_ideal=against_ideal if workers in PROMISED_WORKERS else None,
        promised_bound=AGAINST_BOUND if keeps_busy else None,
        driver_cpu=cpu_after - cpu_before,
        bare_cpu=run.bare.cpu,
        bare_gap=run.bare.gap,
        driver_bytes=done - joined,
        driver_bytes_warm=done - warm,
        journal_seconds=run.journal.seconds,
        load=os.getloadavg()[0],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What was read off one run."""

    meter: _Meter
    journal: _TimedJournal
    bare: Bare


def _run_once(
    plan: Plan,
    graph: TaskGraph,
    kind: WorkerKind,
    workers: int,
    batch: int,
    processes: int,
) -> _Run:
    """Run all tiles with the product's executor, then as many bare calls at the same pace."""
    from orchestrator.ray_backend.bare_calls import bare_calls
    from orchestrator.ray_backend.connection import connected
    from orchestrator.ray_backend.executor import RayExecutor

    meter = _Meter(workers, graph.count)
    with tempfile.TemporaryDirectory(prefix="gigarestore-bench-") as folder:
        run = RunDir(Path(folder))
        run.state.mkdir()
        journal = _TimedJournal(Journal.create(run.journal, {}))
        log = EventLog(run.events)
        frontier = Frontier(graph)
        session = Session(run, plan, frontier, journal, [log, meter])  # type: ignore[arg-type]
        with connected(None, processes, Stop()):
            RayExecutor(workers, batch, kind=kind).execute(session)
            meter.end()
            usual_batch = max(round(graph.count / meter.batches), 1)
            bare = bare_calls(kind, plan, workers, usual_batch, BARE_SECONDS)
        session.check_finished()
        log.close()
    return _Run(meter=meter, journal=journal, bare=bare)


def _forecast(plan: Plan, device: Device, workers: int, batch: int) -> float:
    """Return what `gigarestore plan` answers when it is given this cost of a tile."""
    evaluations = trajectory(plan, plan.levels[0]).nfe
    known = known_device(plan, device.per_call / evaluations, device.per_tile / evaluations)
    return forecast(plan, known, batch, run=True, workers=[workers]).simulations[0].makespan
