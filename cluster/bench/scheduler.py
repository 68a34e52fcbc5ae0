"""`bench scheduler`: the product's Ray executor with workers that only let time pass, against the
simulator's ideal.

Everything but the network is real: frontier, policy, Ray's actors and calls, session, journal with
its fsyncs, event log. A simulated worker sleeps per_call + per_tile x tiles seconds, give or take a
jitter that the simulator repeats. What the scheduler promises is checked row by row: ok, MISSED, or
- where it does not apply.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from cluster.bench.simulated_workers import SimulatedWorker
from orchestrator.errors import PlanError
from orchestrator.events import BatchCommitted, Event, EventLog, WorkerStarted
from orchestrator.job.plan import Plan
from orchestrator.job.spec import JobSpec
from orchestrator.job.trajectory import trajectory
from orchestrator.planning.forecast import BUSY_SHARE, forecast, known_device
from orchestrator.planning.resolve import plan_job
from orchestrator.ray_backend.actors import WorkerKind
from orchestrator.run.session import Session
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import Frontier
from orchestrator.scheduling.simulator import Device, simulate
from orchestrator.shutdown import Stop
from orchestrator.tiling.parallelism import waves
from storage.run_store.journal import Journal

# Processes that the simulated workers share at most, unless told otherwise: each is a Python of 90
# MB, and wants a core too.
PROCESSES = 8
TILE = 256
STRIDE = 192
# How long bare calls of Ray are measured beside a run, s.
BARE_SECONDS = 3.0
# Share of the tiles after which the driver's memory is read first: by then everything is loaded.
WARM = 0.25
# What is promised (README): ideal / makespan, also for batches of half a second or more, and for
# which numbers of workers; bound / makespan; the forecast's relative error; the driver's CPU time
# and memory per tile.
AGAINST_IDEAL = 0.95
AGAINST_IDEAL_LONG = 0.97
LONG_SECONDS = 0.5
PROMISED_WORKERS = (8, 16, 32)
AGAINST_BOUND = 0.95
FORECAST_ERROR = 0.10
DRIVER_MS = 0.3
DRIVER_BYTES = 20.0
MANY_TILES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerTiming:
    """One run with a number of workers; times in s."""

    workers: int
    processes: int
    tiles: int
    batches: int
    makespan: float
    """From the last worker's joining to the last commit."""
    ideal: float
    """The simulator's makespan."""
    forecast: float
    """What `plan` says that it takes with this cost model and no jitter."""
    bound: float
    promised_ideal: float | None
    """The least ideal / makespan that is promised; None for numbers of workers of which nothing is.
    """
    promised_bound: float | None
    """The same for bound / makespan; None where workers x batch is beyond the graph's mean
    parallelism.
    """
    driver_cpu: float
    """CPU time of the driver's process, Ray's threads in it included."""
    bare_cpu: float
    """CPU time of a call of Ray's at this pace, when nothing else is done."""
    bare_gap: float
    """What then lies between a worker's batch and its next."""
    driver_bytes: int
    """Growth of the driver's resident memory during the run."""
    driver_bytes_warm: int
    """The same after the first quarter of the tiles: what more tiles would add, the constant part
    aside.
    """
    journal_seconds: float
    """Time spent waiting for the disk."""

    load: float
    """Processes that wanted a core at the end, on average over a minute, these included."""

    @property
    def bytes_per_tile(self) -> float:
        """What a tile adds to the driver's memory."""
        return self.driver_bytes_warm / ((1 - WARM) * self.tiles)

    @property
    def ms_per_tile(self) -> float:
        """CPU time of the driver for a tile."""
        return 1000 * self.driver_cpu / self.tiles

    @property
    def bare_ms_per_tile(self) -> float:
        """What of it as many bare calls of Ray's cost."""
        return 1000 * self.bare_cpu * self.batches / self.tiles

    @property
    def against_ideal(self) -> float:
        return self.ideal / self.makespan

    @property
    def claims(self) -> dict[str, bool | None]:
        """What is promised, and whether it was kept; None where it does not apply."""
        return {
            "ideal/time": _kept(self.promised_ideal, self.against_ideal),
            "bound/time": _kept(self.promised_bound, self.bound / self.makespan),
            "plan": abs(self.forecast / self.makespan - 1) <= FORECAST_ERROR,
            "CPU": self.ms_per_tile <= DRIVER_MS,
            # Among fewer tiles the megabytes that an allocator takes at once hide the bytes.
            "bytes": self.bytes_per_tile <= DRIVER_BYTES if self.tiles >= MANY_TILES else None,
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ideal_over_makespan": self.against_ideal,
            "bound_over_makespan": self.bound / self.makespan,
            "driver_ms_per_tile": self.ms_per_tile,
            "bare_ms_per_tile": self.bare_ms_per_tile,
            "driver_cores": self.driver_cpu / self.makespan,
            "driver_bytes_per_tile": self.bytes_per_tile,
            "claims": self.claims,
        }


def _kept(promised: float | None, found: float) -> bool | None:
    return None if promised is None else found >= promised


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
    return plan_job(
        JobSpec.build({"input": {"size": size}, "task": {"name": "generate"}, "tiling": tiling})
    )


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
    """Run a plan's tiles once on simulated workers and return what it took beside what it should
    take.
    """
    from orchestrator.ray_backend.bare_calls import bare_calls
    from orchestrator.ray_backend.connection import connected
    from orchestrator.ray_backend.executor import RayExecutor

    graph = plan.graph()
    ideal = simulate(graph, device, workers, batch)
    kind = simulated(device, workers, processes)
    busy = workers * batch <= BUSY_SHARE * waves([level.grid for level in plan.levels]).mean
    long = device.per_call + batch * device.per_tile >= LONG_SECONDS
    meter = _Meter(workers, graph.count)
    with tempfile.TemporaryDirectory(prefix="gigarestore-bench-") as folder:
        run = RunDir(Path(folder))
        run.state.mkdir()
        journal = _TimedJournal(Journal.create(run.journal, {}))
        log = EventLog(run.events)
        session = Session(run, plan, Frontier(graph), journal, [log, meter])  # type: ignore[arg-type]
        with connected(None, processes, Stop()):
            RayExecutor(workers, batch, kind=kind).execute(session)
            meter.end()
            bare = bare_calls(
                kind, plan, workers, max(round(graph.count / meter.batches), 1), BARE_SECONDS
            )
        session.check_finished()
        log.close()
    return SchedulerTiming(
        workers=workers,
        processes=math.ceil(workers / kind.slots),
        tiles=graph.count,
        batches=meter.batches,
        makespan=meter.last[0] - meter.first[0],
        ideal=ideal.makespan,
        forecast=_forecast(plan, device, workers, batch),
        bound=ideal.bound,
        promised_ideal=(AGAINST_IDEAL_LONG if long else AGAINST_IDEAL)
        if workers in PROMISED_WORKERS
        else None,
        promised_bound=AGAINST_BOUND if busy else None,
        driver_cpu=meter.last[1] - meter.first[1],
        bare_cpu=bare.cpu,
        bare_gap=bare.gap,
        driver_bytes=meter.memory[2] - meter.memory[0],
        driver_bytes_warm=meter.memory[2] - meter.memory[1],
        journal_seconds=journal.seconds,
        load=os.getloadavg()[0],
    )


def _forecast(plan: Plan, device: Device, workers: int, batch: int) -> float:
    """Return what `gigarestore plan` answers when it is given this cost of a tile."""
    evaluations = trajectory(plan, plan.levels[0]).nfe
    known = known_device(plan, device.per_call / evaluations, device.per_tile / evaluations)
    return forecast(plan, known, batch, run=True, workers=[workers]).simulations[0].makespan


def run_bench(
    rows: int,
    cols: int,
    order: str,
    batch: int,
    device: Device,
    workers: Sequence[int],
    processes: int = PROCESSES,
) -> list[SchedulerTiming]:
    """Measure for each number of workers, print a table, and one JSON line last."""
    plan = grid_plan(rows, cols, order)
    console = Console(highlight=False, soft_wrap=True, width=150)
    console.print(
        f"{rows}x{cols} = {rows * cols:,} tiles, order {order}, batches of {batch}, "
        f"{device.per_call:g} s + {device.per_tile:g} s a tile, jitter {device.jitter:.0%}"
    )
    found = [measure(plan, device, count, batch, processes) for count in workers]
    table = Table(
        "workers",
        "time",
        "ideal",
        "plan",
        "ideal/time",
        "bound/time",
        box=None,
        pad_edge=False,
    )
    for name in ("CPU ms/tile", "Ray's", "gap", "cores", "bytes/tile", "growth", "journal", "load"):
        table.add_column(name)
    for m in found:
        table.add_row(
            f"{m.workers}",
            f"{m.makespan:.2f}",
            f"{m.ideal:.2f}",
            f"{m.forecast:.2f}",
            f"{m.against_ideal:.3f}",
            f"{m.bound / m.makespan:.3f}",
            f"{m.ms_per_tile:.3f}",
            f"{m.bare_ms_per_tile:.3f}",
            f"{1000 * m.bare_gap:.1f}",
            f"{m.driver_cpu / m.makespan:.2f}",
            f"{m.bytes_per_tile:.0f}",
            f"{m.driver_bytes / 1e6:.1f}",
            f"{m.journal_seconds:.2f}",
            f"{m.load:.1f}",
        )
    console.print(table)
    console.print(
        "times in s; ideal: simulated; plan: its forecast; "
        "CPU, cores, bytes/tile, growth (MB), journal: of the driver; Ray's: what as many bare calls at this pace cost it, and "
        "gap: the ms that they leave between a worker's batch and its next, unless that is in its hands already; "
        "load: of this machine"
    )
    _print_claims(console, plan, batch, found)
    shape = {"rows": rows, "cols": cols, "order": order, "batch": batch, "device": asdict(device)}
    print(json.dumps({"bench": "scheduler", **shape, "runs": [m.as_dict() for m in found]}))
    return found


def _print_claims(
    console: Console, plan: Plan, batch: int, found: Sequence[SchedulerTiming]
) -> None:
    """Print row by row which promises were kept."""
    table = Table("promised", "workers", *found[0].claims, box=None, pad_edge=False)
    said = {True: "ok", False: "MISSED", None: "-"}
    for m in found:
        table.add_row(f"{m.workers}", *(said[kept] for kept in m.claims.values()))
    console.print(table)
    parallel = waves([level.grid for level in plan.levels]).mean
    console.print(
        f"ideal/time: {AGAINST_IDEAL:g} ({AGAINST_IDEAL_LONG:g} for batches of {LONG_SECONDS:g} s) with 8, 16 and 32 "
        f"workers; bound/time: {AGAINST_BOUND:g} where workers x {batch} <= {BUSY_SHARE:g} x tiles / depth "
        f"= {BUSY_SHARE * parallel:.0f}; plan: within {FORECAST_ERROR:.0%}; CPU: {DRIVER_MS:g} ms, {DRIVER_BYTES:g} "
        "bytes a tile"
    )
