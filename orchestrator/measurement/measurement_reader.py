"""The measurement of every level as windows in [-1, 1], NaN where unknown: from input, mask, or a
pooled copy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.arrays import Array
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.plan import Level, Plan
from orchestrator.measurement.input_file import equals, open_file, read_measured, without_empty
from orchestrator.measurement.mask_reading import known_by_mask, open_mask
from orchestrator.measurement.windows import MeasuredWindow
from orchestrator.run_folder import RunDir
from storage.box import Box
from storage.image import Reader
from storage.readers.cache import CachedReader
from storage.run_store.pooled import open_pooled

Pixels = NDArray[Any]
Known = Callable[[Box, Pixels], NDArray[np.bool_]]


def input_measured(run: RunDir, plan: Plan) -> MeasuredWindow:
    """Return the measurement as it was read (pool 1): grey where the task measures grey, NaN where
    unknown.

    With a mask of the output's pixels a cell counts as known when any of its pixels is: its value
    is their average, at coarser levels too, where it stands for the whole cell (the strict rule
    leaves scattered scratches nothing known).
    """
    spec = plan.spec.input
    assert spec.path is not None and spec.size is not None, "a measured task has an input"
    if plan.task.coefficients:
        coefficients = open_pooled(Path(spec.path))
        return MeasuredWindow(
            coefficients.height, coefficients.width, lambda *box: coefficients.read(Box(*box))
        )
    image = open_input(run, plan)
    known = input_known(run, plan)
    grey = plan.task.grey

    def read(y0: int, x0: int, y1: int, x1: int) -> Array:
        box = Box(y0, x0, y1, x1).shift(*(spec.crop or (0, 0))[:2])
        pixels, empty = read_measured(plan, image, box)
        y = _unit(plan, pixels, empty)
        if grey and y.shape[0] > 1:
            y = y.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        return y if known is None else np.where(known(box, pixels), y, np.float32(np.nan))

    height, width = spec.size
    if spec.pad is None:
        return MeasuredWindow(height, width, read)
    top, right, bottom, left = spec.pad

    def read_padded(y0: int, x0: int, y1: int, x1: int) -> Array:
        assert spec.bands is not None, "resolve() fills the input's facts"
        window = Box(y0, x0, y1, x1)
        inner = Box(top, left, top + height, left + width)
        padded = np.full((spec.bands, *window.shape), np.nan, dtype=np.float32)
        y = max(y0, inner.y0)
        x = max(x0, inner.x0)
        y_end = min(y1, inner.y1)
        x_end = min(x1, inner.x1)
        if y < y_end and x < x_end:
            padded[:, y - y0 : y_end - y0, x - x0 : x_end - x0] = read(
                y - top, x - left, y_end - top, x_end - left
            )
        return padded

    return MeasuredWindow(height + top + bottom, width + left + right, read_padded)


def _unit(plan: Plan, pixels: Pixels, empty: NDArray[np.bool_] | None) -> Array:
    """Return samples in the unit of [-1, 1], NaN where they are none."""
    if plan.rules == FIRST:
        return plan.values.to_unit(without_empty(plan.spec.input, plan.values, pixels))
    y = plan.values.to_unit(pixels)
    return y if empty is None else np.where(empty, np.float32(np.nan), y)


def input_known(run: RunDir, plan: Plan) -> Known | None:
    """Return what tells the known pixels of a window of the input; None where all are.

    (1, h, w), or (C, h, w) where a value tells the unknown samples of each band.
    """
    spec = plan.spec.input
    mask = open_mask(run, plan)
    if mask is None and spec.nodata is None:
        return None
    scale = plan.task.scale if spec.fine_mask else 1

    def known(box: Box, pixels: Pixels) -> NDArray[np.bool_]:
        is_known = np.ones((1, *box.shape), dtype=bool)
        if mask is not None:
            is_known = known_by_mask(plan, mask.read(box.scale(scale)), scale)
        if spec.nodata is None:
            return is_known
        if plan.rules == FIRST:
            return is_known & np.asarray(pixels != spec.nodata).any(axis=0, keepdims=True)
        marked = np.asarray(is_known & ~equals(pixels, spec.nodata))
        # A grey value is the mean of all bands: one that lacks a band is not known.
        return np.asarray(marked.all(axis=0, keepdims=True)) if plan.task.grey else marked

    return known


def read_known(
    plan: Plan, image: Reader, known: Known | None, box: Box
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return a window of the input, (C, h, w), and which of its samples were measured, the same
    shape: neither without data nor unknown.
    """
    pixels, empty = read_measured(plan, image, box)
    measured = np.ones(pixels.shape, bool)
    if empty is not None:
        measured &= ~empty
    if known is not None:
        measured &= known(box, pixels)
    return pixels, measured


def fine_known(run: RunDir, plan: Plan) -> MeasuredWindow | None:
    """Return a mask of the output's pixels as an endless image, 1 where known; None where there is
    none.
    """
    mask = open_mask(run, plan)
    if mask is None or not plan.spec.input.fine_mask:
        return None

    def read(y0: int, x0: int, y1: int, x1: int) -> Array:
        return known_by_mask(plan, mask.read(Box(y0, x0, y1, x1))).astype(np.float32)

    return MeasuredWindow(mask.info.height, mask.info.width, read)


def level_measured(run: RunDir, plan: Plan, level: Level) -> MeasuredWindow | None:
    """Return what constrains a level; None for generation."""
    if not plan.task.measured:
        return None
    if level.posed.pool == 1:
        return input_measured(run, plan)
    pooled = open_pooled(run.measured(level.index))

    def read(y0: int, x0: int, y1: int, x1: int) -> Array:
        return pooled.read(Box(y0, x0, y1, x1))

    return MeasuredWindow(pooled.height, pooled.width, read)


def open_input(run: RunDir, plan: Plan) -> Reader:
    """Open the input image, its staged copy where there is one, so that overlapping windows decode
    nothing twice.
    """
    return CachedReader(open_file(plan.spec.input, run.staged_input))
