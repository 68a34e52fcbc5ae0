"""The measurement of every level as windows in [-1, 1], NaN where unknown: from the input, its mask, or a pooled copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.plan import Level, Plan
from orchestrator.rundir import RunDir
from orchestrator.windows import Array, Measured
from storage.box import Box
from storage.open import open_image
from storage.pooled import open_pooled


def input_measured(run: RunDir, plan: Plan) -> Measured:
    """Return the measurement as it was read (pool 1): grey where the task measures grey, NaN where the mask is 0."""
    assert plan.spec.input.path is not None and plan.spec.input.size is not None, "a measured task has an input"
    image = open_image(_staged_or(run.staged_input, plan.spec.input.path))
    mask = open_image(_staged_or(run.staged_mask, plan.spec.input.mask)) if plan.spec.input.mask else None
    grey = plan.task.grey

    def read(y0: int, x0: int, y1: int, x1: int) -> Array:
        box = Box(y0, x0, y1, x1).shift(*(plan.spec.input.crop or (0, 0))[:2])
        y = plan.values.to_unit(image.read(box))
        if grey and y.shape[0] > 1:
            y = y.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        if mask is not None:
            y = np.where(mask.read(box)[:1] != 0, y, np.float32(np.nan))
        return y

    return Measured(*plan.spec.input.size, read)


def level_measured(run: RunDir, plan: Plan, level: Level) -> Measured | None:
    """Return what constrains a level; None for generation."""
    if not plan.task.measured:
        return None
    if level.posed.pool == 1:
        return input_measured(run, plan)
    pooled = open_pooled(run.measured(level.index))

    def read(y0: int, x0: int, y1: int, x1: int) -> Array:
        return pooled.read(Box(y0, x0, y1, x1))

    return Measured(pooled.height, pooled.width, read)


def _staged_or(staged: Path, original: str) -> Path:
    return staged if staged.exists() else Path(original)
