"""`bench scaling`: a real restoration on the devices that there are, with more and more workers,
against the graph's bound.

Strong: one picture for every number of workers. Weak: as many tiles per worker. The ideal is
simulated with the cost of a tile that one worker was measured to have, the bound is max(work /
workers, longest chain); both at batches of `batch`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.terminal.line_chart import Line, svg
from orchestrator.errors import PlanError
from orchestrator.events import BatchCommitted, Event, WorkerStarted
from orchestrator.job.plan import Plan
from orchestrator.job.spec import JobSpec
from orchestrator.job.trajectory import trajectory
from orchestrator.planning.resolve import plan_job
from orchestrator.ray_backend.actors import WorkerKind
from orchestrator.run.lifecycle import start
from orchestrator.scheduling.simulator import Device, lower_bound, simulate

SCALE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingCase:
    """What is restored again and again."""

    denoiser: str
    tile: int
    stride: int
    steps: int
    order: str
    batch: int

    def spec(self, source: Path, out: Path) -> JobSpec:
        tiling = {"tile": self.tile, "stride": self.stride, "levels": 1, "order": self.order}
        return JobSpec.build(
            {
                "input": {"path": str(source)},
                "output": str(out),
                "denoiser": self.denoiser,
                "task": {"name": "sr", "scale": SCALE},
                "sampling": {"intent": "detail", "steps": self.steps},
                "tiling": tiling,
            }
        )

    def side(self, tiles: int) -> int:
        """Return the input pixels along a side of so many tiles."""
        return (self.tile + self.stride * (tiles - 1)) // SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """One run; times in s."""

    kind: str
    """strong or weak"""
    workers: int
    tiles: int
    makespan: float
    """From the last worker's joining to the last commit."""
    ideal: float
    bound: float
    efficiency: float
    """Tiles per second and worker, against one worker."""
    load: float
    """Processes that wanted a core, on average over the last minute, these included."""


class _ScalingClock:
    """Time from the last worker's joining to the last commit."""

    def __init__(self, workers: int) -> None:
        self._missing = workers
        self.began = 0.0
        self.ended = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, WorkerStarted):
            self._missing -= 1
            self.began = time.perf_counter()
        elif isinstance(event, BatchCommitted):
            if self._missing > 0:
                raise PlanError(
                    f"{self._missing} workers find no device here; give --workers with smaller "
                    "numbers"
                )
            self.ended = time.perf_counter()


def measure(case: ScalingCase, rows: int, cols: int, workers: int) -> tuple[Plan, float]:
    """Restore rows x cols tiles on so many workers; return the plan and the seconds it took."""
    from orchestrator.ray_backend.executor import RayExecutor

    clock = _ScalingClock(workers)
    with tempfile.TemporaryDirectory(prefix="gigarestore-bench-") as folder:
        source = Path(folder) / "in.png"
        out = Path(folder) / "out"
        source.write_bytes(
            bytes(imagecodecs.png_encode(_picture(case.side(rows), case.side(cols))))
        )
        spec = case.spec(source, out)
        executor = RayExecutor(workers, case.batch, kind=WorkerKind(gather=True))
        start(spec, executor, [clock])
        return plan_job(spec), clock.ended - clock.began


def _picture(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return waves in three colours, (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + c) + np.cos(y / 4 - c) for c in range(3)]
    return np.rint(127.5 + 50 * np.stack(waves, axis=-1)).astype(np.uint8)


def run_scaling(
    case: ScalingCase, tiles: int, workers: Sequence[int], plot: Path | None
) -> list[Scaled]:
    """Measure strong and weak scaling from `tiles` x `tiles` tiles; print a table, draw `plot`, and
    print one JSON line last.
    """
    console = Console(highlight=False, soft_wrap=True, width=120)
    plan, seconds = measure(case, tiles, tiles, 1)
    alone = _Alone.of(plan, seconds)
    console.print(
        f"{case.denoiser}, tiles of {case.tile}, {alone.evaluations} evaluations each, order "
        f"{case.order}: {seconds / alone.tiles:.3f} s a tile on one worker"
    )

    runs = [_scaled("strong", plan, 1, seconds, alone, case.batch)]
    for count in workers:
        if count > 1:
            plan, seconds = measure(case, tiles, tiles, count)
            runs.append(_scaled("strong", plan, count, seconds, alone, case.batch))
    for count in workers:
        if count == 1:
            plan, seconds = alone.plan, alone.seconds
        else:
            plan, seconds = measure(case, tiles, tiles * count, count)
        runs.append(_scaled("weak", plan, count, seconds, alone, case.batch))

    console.print(_table(runs))
    if plot is not None:
        plot.write_text(_drawing(case, runs, alone.tiles / alone.seconds), encoding="utf-8")
        console.print(f"{plot}: tiles per second over workers")
    print(json.dumps({"bench": "scaling", **asdict(case), "runs": [asdict(run) for run in runs]}))
    return runs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alone:
    """What one worker was measured to take for the picture, against which all else is compared."""

    plan: Plan
    seconds: float
    tiles: int
    evaluations: int
    """Of a tile."""
    device: Device
    """A device with the cost of a tile that was measured."""

    @classmethod
    def of(cls, plan: Plan, seconds: float) -> _Alone:
        tiles = plan.graph().count
        evaluations = trajectory(plan, plan.levels[0]).nfe
        device = Device(per_call=0.0, per_tile=seconds / (tiles * evaluations))
        return cls(plan=plan, seconds=seconds, tiles=tiles, evaluations=evaluations, device=device)


def _table(runs: Sequence[Scaled]) -> Table:
    columns = ("scaling", "workers", "tiles", "time", "ideal", "bound", "ideal/time", "efficiency")
    table = Table(*columns, box=None)
    for run in runs:
        table.add_row(
            run.kind,
            f"{run.workers}",
            f"{run.tiles}",
            f"{run.makespan:.2f}",
            f"{run.ideal:.2f}",
            f"{run.bound:.2f}",
            f"{run.ideal / run.makespan:.3f}",
            f"{run.efficiency:.3f}",
        )
    return table


def _scaled(
    kind: str, plan: Plan, workers: int, seconds: float, alone: _Alone, batch: int
) -> Scaled:
    graph = plan.graph()
    evaluations = [trajectory(plan, level).nfe for level in plan.levels]
    rate_of_a_worker = graph.count / seconds / workers
    return Scaled(
        kind=kind,
        workers=workers,
        tiles=graph.count,
        makespan=seconds,
        ideal=simulate(graph, alone.device, workers, batch, evaluations).makespan,
        bound=lower_bound(graph, alone.device, workers, batch, evaluations),
        efficiency=rate_of_a_worker / (alone.tiles / alone.seconds),
        load=os.getloadavg()[0],
    )


def _drawing(case: ScalingCase, runs: Sequence[Scaled], rate: float) -> str:
    """Draw tiles per second over workers: measured, the graph's bound, and linear."""
    lines = []
    for kind in ("strong", "weak"):
        of_kind = [run for run in runs if run.kind == kind]
        of_kind.sort(key=lambda run: run.workers)
        measured = [(run.workers, run.tiles / run.makespan) for run in of_kind]
        bound = [(run.workers, run.tiles / run.bound) for run in of_kind]
        lines.append(Line(f"{kind}, measured", measured))
        lines.append(Line(f"{kind}, bound", bound, dashed=True))
    most = max(run.workers for run in runs)
    lines.append(Line("linear", [(1, rate), (most, rate * most)], dashed=True))
    return svg(f"{case.denoiser}: scaling", "workers", "tiles per second", lines)
