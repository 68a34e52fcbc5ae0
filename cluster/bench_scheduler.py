"""`bench scheduler`: the product's Ray executor with workers that only let time pass, against the simulator's ideal.

Everything but the network is real: frontier, policy, Ray's actors and calls, session, journal with its fsyncs, event
log. A simulated worker sleeps per_call + per_tile x tiles seconds, give or take a jitter that the simulator repeats.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from orchestrator.actors import WorkerKind
from orchestrator.errors import PlanError
from orchestrator.events import BatchCommitted, Event, EventLog, WorkerStarted
from orchestrator.frontier import Frontier
from orchestrator.graph import TaskGraph
from orchestrator.grid import TileKey
from orchestrator.plan import Plan
from orchestrator.report import Report
from orchestrator.resolve import plan_job
from orchestrator.rundir import RunDir
from orchestrator.session import Session
from orchestrator.simulate import Device, Simulation, simulate, simulate_continuous
from orchestrator.spec import JobSpec
from storage.journal import Journal

# Processes that the simulated workers share at most: each is a Python of 90 MB.
PROCESSES = 8
TILE, STRIDE = 256, 192
# Network evaluations of a batch, for the simulator of continuous batching.
EVALUATIONS = 10


class SimulatedWorker:
    """Take the time that a device would; several share a process."""

    def __init__(self, device: Device, columns: int) -> None:
        self._device, self._columns = device, columns

    async def ready(self) -> tuple[str, str]:
        """Return (host:pid, device)."""
        return f"{socket.gethostname()}:{os.getpid()}", "simulated"

    async def run(self, keys: list[list[int]], *after: Report) -> Report:
        """Sleep as long as the batch takes."""
        _, row, col = keys[0]
        cost = self._device.seconds(len(keys), first=row * self._columns + col)
        await asyncio.sleep(cost)
        return Report(tuple(TileKey(*key) for key in keys), cost, len(keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run with a number of workers; times in s."""

    workers: int
    processes: int
    tiles: int
    batches: int
    makespan: float
    """From the last worker's joining to the last commit."""
    ideal: float
    """The simulator's makespan."""
    ideal_continuous: float
    bound: float
    driver_cpu: float
    """CPU time of the driver's process, Ray's threads in it included."""
    driver_bytes: int
    """Growth of the driver's resident memory during the run."""
    journal_seconds: float
    """Time spent waiting for the disk."""

    @property
    def against_ideal(self) -> float:
        return self.ideal / self.makespan

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ideal_over_makespan": self.against_ideal,
            "bound_over_makespan": self.bound / self.makespan,
            "driver_ms_per_tile": 1000 * self.driver_cpu / self.tiles,
            "driver_cores": self.driver_cpu / self.makespan,
            "driver_bytes_per_tile": self.driver_bytes / self.tiles,
        }


class _Meter:
    """A listener that reads clock, CPU time and memory when the last worker has joined and at every commit."""

    def __init__(self, workers: int) -> None:
        self._missing = workers
        self._process = psutil.Process()
        self.first = self.last = (0.0, 0.0, 0)
        self.batches = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, WorkerStarted):
            self._missing -= 1
            if self._missing == 0:
                self.first = self.last = self._read()
        elif isinstance(event, BatchCommitted):
            self.batches += 1
            self.last = (time.perf_counter(), time.process_time(), self.last[2])

    def end(self) -> None:
        self.last = (*self.last[:2], self._process.memory_info().rss)

    def _read(self) -> tuple[float, float, int]:
        return time.perf_counter(), time.process_time(), self._process.memory_info().rss


class _TimedJournal:
    """The journal, and how long it took."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self.seconds = journal, 0.0

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
    return plan_job(JobSpec.build({"input": {"size": size}, "task": {"name": "generate"}, "tiling": tiling}))


def measure(plan: Plan, device: Device, workers: int, batch: int, processes: int = PROCESSES) -> Measured:
    """Run a plan's tiles once on simulated workers and return what it took beside what it should take."""
    from orchestrator.ray_executor import RayExecutor

    graph, columns = plan.graph(), plan.levels[0].grid.cols.count
    ideal = simulate(graph, device, workers, batch)
    continuous = _continuous(graph, device, workers, batch)
    kind = WorkerKind(
        actor=SimulatedWorker,
        arguments=lambda _: (device, columns),
        slots=max(2, math.ceil(workers / processes)),
        gpus=False,
        gather=True,
    )
    meter = _Meter(workers)
    with tempfile.TemporaryDirectory(prefix="gigarestore-bench-") as folder:
        run = RunDir(Path(folder))
        run.state.mkdir()
        journal, log = _TimedJournal(Journal.create(run.journal, {})), EventLog(run.events)
        session = Session(run, plan, Frontier(graph), journal, [log, meter])  # type: ignore[arg-type]
        RayExecutor(workers, batch, kind=kind).execute(session)
        meter.end()
        session.check_finished()
        log.close()
    return Measured(
        workers=workers,
        processes=math.ceil(workers / kind.slots),
        tiles=graph.count,
        batches=meter.batches,
        makespan=meter.last[0] - meter.first[0],
        ideal=ideal.makespan,
        ideal_continuous=continuous.makespan,
        bound=ideal.bound,
        driver_cpu=meter.last[1] - meter.first[1],
        driver_bytes=meter.last[2] - meter.first[2],
        journal_seconds=journal.seconds,
    )


def _continuous(graph: TaskGraph, device: Device, workers: int, batch: int) -> Simulation:
    step = Device(
        per_call=device.per_call / EVALUATIONS,
        per_tile=device.per_tile / EVALUATIONS,
        jitter=device.jitter,
        seed=device.seed,
    )
    return simulate_continuous(graph, step, workers, batch, [EVALUATIONS])


def run_bench(rows: int, cols: int, order: str, batch: int, device: Device, workers: Sequence[int]) -> list[Measured]:
    """Measure for each number of workers, print a line each as it is known, and one JSON line last."""
    plan, console = grid_plan(rows, cols, order), Console(highlight=False, soft_wrap=True, width=120)
    console.print(
        f"{rows}x{cols} = {rows * cols:,} tiles, order {order}, batches of {batch}, "
        f"{device.per_call:g} s + {device.per_tile:g} s a tile, jitter {device.jitter:.0%}"
    )
    found = [measure(plan, device, count, batch) for count in workers]
    table = Table("workers", "time", "ideal", "ideal/time", "bound/time", "continuous", box=None, pad_edge=False)
    for name in ("CPU ms/tile", "cores", "bytes/tile", "journal"):
        table.add_column(name)
    for m in found:
        table.add_row(
            f"{m.workers}",
            f"{m.makespan:.2f}",
            f"{m.ideal:.2f}",
            f"{m.against_ideal:.3f}",
            f"{m.bound / m.makespan:.3f}",
            f"{m.ideal_continuous:.2f}",
            f"{1000 * m.driver_cpu / m.tiles:.3f}",
            f"{m.driver_cpu / m.makespan:.2f}",
            f"{m.driver_bytes / m.tiles:.0f}",
            f"{m.journal_seconds:.2f}",
        )
    console.print(table)
    console.print(
        "times in s; ideal, continuous: simulated with batches that end together, with admission at every step; "
        "CPU, cores, bytes, journal: of the driver"
    )
    shape = {"rows": rows, "cols": cols, "order": order, "batch": batch, "device": asdict(device)}
    print(json.dumps({"bench": "scheduler", **shape, "runs": [m.as_dict() for m in found]}))
    return found
