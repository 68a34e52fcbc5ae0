"""How many tiles of a plan need no network, counted beforehand where that is cheap: from the
measurement alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from orchestrator.job.plan import Level, Plan
from orchestrator.job.regions import covered
from orchestrator.measurement.nodata import keeps_nodata
from orchestrator.measurement.tile_input import TileInput, determined
from orchestrator.measurement.windows import MeasuredWindow
from orchestrator.run_folder import RunDir
from orchestrator.tiling.grid import TileKey
from storage.box import Box

# Measured pixels that are decoded to count; above it the run itself says how many there were.
MOST_PIXELS = 16_000_000


def count_filled(plan: Plan) -> int | None:
    """Return a lower bound on the tiles that will be filled without the network; None where
    counting is not cheap.

    Levels whose measurement is pooled first are not counted, since the pooling is a part of the
    run. Nothing is read unless a mask, a tolerance for flat tiles or a region makes such tiles
    possible.
    """
    possible = (
        plan.regions
        or plan.spec.task.skip_flat is not None
        or plan.task.masked
        or keeps_nodata(plan)
    )
    if not possible:
        return 0
    height, width = plan.spec.input.size or (0, 0)
    if height * width > MOST_PIXELS:
        return None
    from orchestrator.measurement.measurement_reader import (
        input_measured,  # a plan that need not count is made without zarr
    )

    # Nothing is staged yet: a run's folder that cannot exist leads to the input itself.
    measured = (
        input_measured(RunDir(Path(os.devnull)), plan)
        if plan.task.measured and plan.spec.input.path
        else None
    )
    levels = [level for level in plan.levels if level.posed.pool == 1]
    return sum(
        _is_filled(plan, level, key, measured)
        for level in levels
        for key in map(level.grid.key, range(level.grid.count))
    )


def _is_filled(plan: Plan, level: Level, key: TileKey, measured: MeasuredWindow | None) -> bool:
    box = Box(*level.grid.box(key))
    s = level.posed.scale
    y = (
        None
        if measured is None
        else measured.read(box.y0 // s, box.x0 // s, box.y1 // s, box.x1 // s)
    )
    mask = np.zeros((1, *box.shape), dtype=bool)
    for region in plan.regions:
        rows, cols = (
            covered(region.box, level.index).intersect(box).shift(-box.y0, -box.x0).slices()
        )
        mask[:, rows, cols] = True
    known = np.zeros((plan.bands.stored, *box.shape), np.float32)
    tile = TileInput(y=y, known_mask=mask, known=known, guide=None, start=None)
    return (
        determined(plan, level, tile, Box(*level.grid.owned(key)).shift(-box.y0, -box.x0))
        is not None
    )
