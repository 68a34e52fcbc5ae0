"""What a run needs before its first tile: staged input, pooled measurements, empty working arrays.
Each step restartable.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path, PurePath

from orchestrator.errors import PlanError
from orchestrator.events import Listener, Staging
from orchestrator.job.plan import Plan
from orchestrator.measurement.input_file import selection
from orchestrator.measurement.measurement_reader import level_measured
from orchestrator.run.publish_image import publication, super_blocks
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.cell_lifetime import surviving
from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.hierarchy import FACTOR
from orchestrator.worker.level_cells import LevelCells
from storage.atomic_files import sweep
from storage.box import Box
from storage.byte_source import redact
from storage.readers.staging import stage
from storage.run_store.pooled import build_pooled

# Free space asked for beyond the estimate, as a share of it: file system overhead, journal, logs.
DISK_SLACK = 0.05


def prepare(run: RunDir, plan: Plan, listeners: Sequence[Listener] = ()) -> None:
    """Stage the input if it cannot be read by windows, pool the measurement for coarse levels,
    create the cells.
    """
    run.state.mkdir(parents=True, exist_ok=True)
    for folder in (run.state, run.state / "measured"):
        sweep(folder)
    _stage(plan, run.staged_input, run.staged_mask, listeners)
    if plan.task.measured:
        _pool(run, plan)
    for level in plan.levels:
        if (run.work(level.index) / "zarr.json").exists():
            LevelCells.open(run, level).cells.sweep()  # what a killed worker left half-written
        else:
            LevelCells.create(run, plan, level)


def stage_beside(run: RunDir, plan: Plan, listeners: Sequence[Listener] = ()) -> None:
    """Stage the inputs of a run that is to replace another, which stays whole should they be
    damaged.
    """
    shutil.rmtree(run.incoming, ignore_errors=True)
    run.incoming.mkdir()
    staged_input, staged_mask = (
        run.incoming / path.name for path in (run.staged_input, run.staged_mask)
    )
    _stage(plan, staged_input, staged_mask, listeners)


def adopt_staged(run: RunDir) -> None:
    """Move what `stage_beside` has staged to where the run reads it."""
    for path in (run.staged_input, run.staged_mask):
        if (run.incoming / path.name).exists():
            (run.incoming / path.name).rename(path)
    run.incoming.rmdir()


def _stage(
    plan: Plan, staged_input: Path, staged_mask: Path, listeners: Sequence[Listener]
) -> None:
    """Copy the files that cannot be read by windows, unless that was done before."""
    spec = plan.spec.input
    image = plan.inputs.image
    if spec.path is not None and image is not None and not (image.lazy or staged_input.exists()):
        progress = _teller(listeners, spec.path)
        chosen = selection(spec)
        stage(spec.path, staged_input, chosen, max_pixels=spec.max_pixels, progress=progress)

    mask = plan.inputs.mask
    if spec.mask is not None and mask is not None and not (mask.lazy or staged_mask.exists()):
        stage(spec.mask, staged_mask, progress=_teller(listeners, spec.mask))


def _teller(listeners: Sequence[Listener], path: str) -> Callable[[int, int], None]:
    """Return what tells listeners of the progress of staging a file."""

    def tell(done: int, total: int) -> None:
        for listener in listeners:
            listener(Staging(name=PurePath(redact(path)).name, done=done, total=total))

    return tell


def _pool(run: RunDir, plan: Plan) -> None:
    """Pool the measurement for the levels that need it, each from the finer one's."""
    for finer, level in pairwise(plan.levels):
        path = run.measured(level.index)
        if level.posed.pool == 1 or path.exists():
            continue
        source = level_measured(run, plan, finer)
        assert source is not None, "a measured task has a measurement"
        channels = source.read(0, 0, 1, 1).shape[0]
        height = -(-source.height // FACTOR)
        width = -(-source.width // FACTOR)
        build_pooled(source.read, channels, height, width, FACTOR, path)


def with_cells(run: RunDir, plan: Plan, keys: Sequence[TileKey]) -> list[TileKey]:
    """Return the tiles whose cells are all there or not needed any more (reading checks whether
    they are sound).
    """
    cells = [LevelCells.open(run, level) for level in plan.levels]
    writer = publication(run, plan)

    def stored(key: TileKey) -> bool:
        return cells[key.level].exists(Box(*plan.levels[key.level].grid.owned(key)))

    return surviving(
        super_blocks(plan), plan.graph(), keys, stored, lambda row, col: writer.has(0, row, col)
    )


def check_disk(run: RunDir, needed: int) -> None:
    """Raise PlanError when the output's file system has less free space than the run needs."""
    parent = run.root.absolute()
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    wanted = int(needed * (1 + DISK_SLACK))
    if free < wanted:
        raise PlanError(
            f"no disk space: {run.root} needs about {wanted / 1e9:.1f} GB and {parent} has "
            f"{free / 1e9:.1f} GB free; free some or choose another OUT"
        )
