"""`bench scheduler`: the table of its runs, and promise by promise whether it was kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from cluster.bench.scheduler import PROCESSES, grid_plan, measure
from cluster.bench.scheduler_timing import (
    AGAINST_BOUND,
    AGAINST_IDEAL,
    AGAINST_IDEAL_LONG,
    DRIVER_BYTES,
    DRIVER_MS,
    FORECAST_ERROR,
    LONG_SECONDS,
    SchedulerTiming,
)
from orchestrator.job.plan import Plan
from orchestrator.scheduling.simulator import Device
from orchestrator.tiling.parallelism import BUSY_SHARE, waves

COLUMNS = (
    *("workers", "time", "ideal", "plan", "ideal/time", "bound/time"),
    *("CPU ms/tile", "Ray's", "gap", "cores", "bytes/tile", "growth", "journal", "load"),
)
LEGEND = (
    "times in s; ideal: simulated; plan: its forecast; "
    "CPU, cores, bytes/tile, growth (MB), journal: of the driver; Ray's: what as many "
    "bare calls at this pace cost it, and gap: the ms that they leave between a worker's batch and "
    "its next, unless that is in its hands already; load: of this machine"
)


def run_bench(
    rows: int,
    cols: int,
    order: str,
    batch: int,
    device: Device,
    workers: Sequence[int],
    processes: int = PROCESSES,
) -> list[SchedulerTiming]:
    """Measure for each number of workers, print a table, and one JSON line last.

    batch: tiles per call of a worker.
    """
    plan = grid_plan(rows, cols, order)
    console = Console(highlight=False, soft_wrap=True, width=150)
    console.print(
        f"{rows}x{cols} = {rows * cols:,} tiles, order {order}, batches of {batch}, "
        f"{device.per_call:g} s + {device.per_tile:g} s a tile, jitter {device.jitter:.0%}"
    )
    timings = [measure(plan, device, count, batch, processes) for count in workers]

    table = Table(*COLUMNS, box=None, pad_edge=False)
    for timing in timings:
        table.add_row(*_row(timing))
    console.print(table)
    console.print(LEGEND)
    _print_claims(console, plan, batch, timings)

    shape = {"rows": rows, "cols": cols, "order": order, "batch": batch, "device": asdict(device)}
    runs = [timing.as_dict() for timing in timings]
    print(json.dumps({"bench": "scheduler", **shape, "runs": runs}))
    return timings


def _row(timing: SchedulerTiming) -> list[str]:
    """Return a run's line of the table, in the order of COLUMNS."""
    return [
        f"{timing.workers}",
        f"{timing.makespan:.2f}",
        f"{timing.ideal:.2f}",
        f"{timing.forecast:.2f}",
        f"{timing.against_ideal:.3f}",
        f"{timing.bound / timing.makespan:.3f}",
        f"{timing.ms_per_tile:.3f}",
        f"{timing.bare_ms_per_tile:.3f}",
        f"{1000 * timing.bare_gap:.1f}",
        f"{timing.driver_cpu / timing.makespan:.2f}",
        f"{timing.bytes_per_tile:.0f}",
        f"{timing.driver_bytes / 1e6:.1f}",
        f"{timing.journal_seconds:.2f}",
        f"{timing.load:.1f}",
    ]


def _print_claims(
    console: Console, plan: Plan, batch: int, timings: Sequence[SchedulerTiming]
) -> None:
    """Print row by row which promises were kept."""
    words = {True: "ok", False: "MISSED", None: "-"}
    table = Table("workers", *timings[0].claims, box=None, pad_edge=False)
    for timing in timings:
        verdicts = (words[kept] for kept in timing.claims.values())
        table.add_row(f"{timing.workers}", *verdicts)
    console.print(table)

    parallelism = waves([level.grid for level in plan.levels]).mean
    console.print(
        f"ideal/time: {AGAINST_IDEAL:g} ({AGAINST_IDEAL_LONG:g} for batches of {LONG_SECONDS:g} s) "
        f"with 8, 16 and 32 workers; bound/time: {AGAINST_BOUND:g} where workers x {batch} <= "
        f"{BUSY_SHARE:g} x tiles / depth = {BUSY_SHARE * parallelism:.0f}; "
        f"plan: within {FORECAST_ERROR:.0%}; CPU: {DRIVER_MS:g} ms, {DRIVER_BYTES:g} bytes a tile"
    )
