"""What a plan will cost: network evaluations, critical path, disk, memory, time. Numbers only, from
integers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kernels.denoiser_info import DenoiserInfo
from kernels.sampling.method_registry import describe_method
from orchestrator.job.plan import Level, Plan
from orchestrator.job.trajectory import trajectory
from orchestrator.scheduling.cell_lifetime import AHEAD
from orchestrator.tiling.parallelism import waves
from orchestrator.tiling.superblocks import SIDE

# Seconds per network evaluation of one 256 x 256 tile, float32, one CPU core: docs/RESULTS.md.
# Other networks: measure.
BUILTIN_STEP_SECONDS = 0.125
# A worker process with torch and Ray before any tile, bytes (docs/RESULTS.md).
WORKER_BASE_BYTES = 420_000_000
# A vector-Jacobian product keeps all activations of a tile (kernels.sampling.method_registry): at
# most this many times more.
GRADIENT_FACTOR = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelEstimate:
    """One level's share."""

    level: int
    height: int
    width: int
    rows: int
    cols: int
    tiles: int
    scale: int
    nfe_per_tile: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A plan in numbers; sizes in px and bytes, times in s."""

    levels: list[LevelEstimate]
    tiles: int
    nfe: int
    """Network evaluations in all."""
    critical_path: int
    """Tiles on the longest chain of dependencies."""
    useful_workers: int
    """Workers that the graph keeps busy with the planned batches (Parallelism.useful_workers)."""
    worker_memory: int
    disk: int
    seconds: float | None
    """Estimate with the planned workers; None when this network has not been timed."""
    workers: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(plan: Plan, workers: int, step_seconds: float | None = None) -> Estimate:
    """Estimate a plan for a number of workers; step_seconds: one network evaluation of one tile on
    one worker.
    """
    levels = []
    for level in plan.levels:
        grid = level.grid
        levels.append(
            LevelEstimate(
                level=level.index,
                height=level.height,
                width=level.width,
                rows=grid.rows.count,
                cols=grid.cols.count,
                tiles=grid.count,
                scale=level.posed.scale,
                nfe_per_tile=trajectory(plan, level).nfe * len(plan.bands.groups),
            )
        )
    tiles = sum(level.tiles for level in levels)
    nfe = sum(level.tiles * level.nfe_per_tile for level in levels)
    shape = waves([level.grid for level in plan.levels])
    path = shape.depth
    step = step_seconds or known_step(plan.denoiser, plan.tile)
    nfe_path = path * max(level.nfe_per_tile for level in levels)
    return Estimate(
        levels=levels,
        tiles=tiles,
        nfe=nfe,
        critical_path=path,
        useful_workers=shape.useful_workers(plan.spec.run.batch or 1),
        worker_memory=worker_bytes(plan),
        disk=disk_bytes(plan),
        seconds=None if step is None else step * max(nfe / workers, nfe_path),
        workers=workers,
    )


def disk_bytes(plan: Plan) -> int:
    """Return the bytes that a run has on disk at most: float32 cells, and the uncompressed
    published pyramid.
    """
    work = sum(_kept_area(plan, level) for level in plan.levels) * plan.bands.stored * 4
    pooled = (
        sum(level.height * level.width for level in plan.levels if level.posed.pool > 1)
        * 4
        * plan.out_channels
    )
    item = np.dtype(plan.dtype).itemsize
    return work + pooled + plan.height * plan.width * plan.out_channels * item * 4 // 3


def _kept_area(plan: Plan, level: Level) -> int:
    """Return the pixels of a level whose cells are there at the same time.

    Cells go behind the wavefront (orchestrator.scheduling.cell_lifetime): of level 0 those of the
    super-blocks that it crosses stay, of a coarser level so many tiles as may be ahead. An order
    without one wavefront, and --keep-work, keep them all.
    """
    grid = level.grid
    wavefronts = {"raster": 1, "centre": 2}.get(plan.spec.tiling.order or "", 0)
    if plan.spec.run.keep_work or not wavefronts:
        return grid.stored_area
    if level.index > 0:
        return min(
            grid.stored_area,
            (AHEAD + 4 * wavefronts * (grid.rows.count + grid.cols.count)) * grid.rows.stride**2,
        )
    blocks = 2 + -(-level.height // SIDE) + -(-level.width // SIDE)
    return min(grid.stored_area, wavefronts * blocks * (SIDE + 2 * plan.tile) ** 2)


def worker_bytes(plan: Plan) -> int:
    """Return a worker's memory: process, weights, and what sampler and network keep alive for a
    batch.
    """
    sampling = plan.spec.sampling
    differentiated = describe_method(sampling.method).needs_gradient or sampling.pins == "gradient"
    factor = GRADIENT_FACTOR if differentiated else 1
    values = (plan.spec.run.batch or 1) * plan.tile**2 * plan.denoiser.values_per_pixel * factor
    return WORKER_BASE_BYTES + plan.denoiser.weight_bytes + values * 4


def known_step(denoiser: DenoiserInfo, tile: int) -> float | None:
    """Return the seconds of one network evaluation of one tile on a CPU core; None when it has not
    been timed.
    """
    return BUILTIN_STEP_SECONDS * (tile / 256) ** 2 if denoiser.name == "builtin" else None
