"""What more workers would buy: simulated times of a plan for 1 to 1024 workers, and how many each
order keeps busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.job.plan import Plan
from orchestrator.job.trajectory import trajectory
from orchestrator.planning.estimate import known_step
from orchestrator.scheduling.simulator import Device, Simulation, lower_bound, simulate
from orchestrator.tiling.axis import BLOCK, ORDERS
from orchestrator.tiling.grid import TileGrid
from orchestrator.tiling.parallelism import Parallelism, waves

WORKERS = tuple(2**k for k in range(11))
BATCHES = (1, 4, 8, 16)
# What lies between a batch's end and the beginning of what it releases (reply, call), and what each
# batch costs the driver, which sends one after another: between what two machines of two cores
# take, so that both are met within 10 % (docs/RESULTS.md).
LATENCY_SECONDS = 0.005
DISPATCH_SECONDS = 0.001
# A plan with fewer tiles is simulated unasked: half a second for all of WORKERS.
CHEAP_TILES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A plan on different numbers of workers."""

    device: Device | None
    """What an evaluation costs; None when nobody knows."""
    batch: int
    parallelism: Parallelism
    useful: dict[str, dict[int, int]]
    """Per order and batch: the workers that the graph keeps busy; orders that this tiling cannot
    have are left out.
    """
    simulations: list[Simulation]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "device": None if self.device is None else asdict(self.device),
            "batch": self.batch,
            "mean_parallelism": self.parallelism.mean,
            "peak_parallelism": self.parallelism.peak,
            "useful_workers": self.useful,
            "simulations": [
                {**asdict(s), "utilisation": s.utilisation, "efficiency": s.efficiency}
                for s in self.simulations
            ],
        }


def known_device(plan: Plan, call_seconds: float, step_seconds: float | None) -> Device | None:
    """Return the cost that the user gave, or the one known of the network; None when neither is
    there.
    """
    step = step_seconds if step_seconds is not None else known_step(plan.denoiser, plan.tile)
    return None if step is None else Device(per_call=call_seconds, per_tile=step)


def forecast(
    plan: Plan, device: Device | None, batch: int, *, run: bool, workers: Sequence[int] = WORKERS
) -> Forecast:
    """Forecast a plan; run: simulate it, which takes about 3 us per tile and number of workers."""
    parallelism = waves([level.grid for level in plan.levels])
    useful = {
        order: {b: shape.useful_workers(b) for b in BATCHES}
        for order, shape in order_waves(plan).items()
    }
    simulations = (
        simulations_of(plan, device, batch, workers, parallelism.peak)
        if device is not None and run
        else []
    )
    return Forecast(
        device=device, batch=batch, parallelism=parallelism, useful=useful, simulations=simulations
    )


def order_waves(plan: Plan) -> dict[str, Parallelism]:
    """Return the parallelism of the plan's tiling in every order that it can have."""
    by_order = {}
    for order in ORDERS:
        try:
            by_order[order] = waves(
                [
                    _ordered(level.grid, order, plan.spec.tiling.block or BLOCK)
                    for level in plan.levels
                ]
            )
        except PlanError:
            continue
    return by_order


def _ordered(grid: TileGrid, order: str, block: int) -> TileGrid:
    rows = grid.rows
    cols = grid.cols
    return TileGrid.build(
        grid.level,
        rows.length,
        cols.length,
        rows.tile,
        rows.stride,
        order,
        rows.margin,
        block,
        corners=grid.corners,
    )


def simulations_of(
    plan: Plan, device: Device, batch: int, workers: Sequence[int], peak: int
) -> list[Simulation]:
    """Simulate a plan for each number of workers, ascending; beyond `peak` parallel tiles more
    change nothing.
    """
    graph = plan.graph()
    evaluations = [trajectory(plan, level).nfe for level in plan.levels]
    device = replace(device, latency=LATENCY_SECONDS, dispatch=DISPATCH_SECONDS)
    simulations: list[Simulation] = []
    for count in workers:
        if simulations and simulations[-1].workers >= peak:
            simulations.append(replace(simulations[-1], workers=count))
            continue
        bound = lower_bound(graph, device, count, batch, evaluations)
        simulations.append(simulate(graph, device, count, batch, evaluations, bound))
    return simulations
