"""Nodata of the input, carried over to the output: an area without data stays one, sample by
sample.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.sampling.method_registry import describe_method
from orchestrator.arrays import Array
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.plan import Plan
from orchestrator.measurement.input_file import open_file, read_measured, stand_in
from orchestrator.measurement.mask_reading import known_by_mask, open_mask
from orchestrator.run_folder import RunDir
from storage.box import Box
from storage.validity import VALID, marked

Marks = NDArray[np.bool_]
WITH_OPACITY = ("alpha", "associated")
"""Forms of validity in which a pixel may be partly opaque."""


def keeps_nodata(plan: Plan) -> bool:
    """Tell whether the input can hold samples that are none, and lies under the output pixel by
    pixel.
    """
    spec = plan.spec.input
    beneath = plan.task.measured and plan.task.picture and spec.path is not None
    says = spec.keep_nodata is not None or spec.keep_mask is not None or spec.positive
    return beneath and (says or spec.dtype == "float32")


def gaps_stay_open(plan: Plan) -> bool:
    """Tell whether samples without data are left out of the measurement of level 0, instead of what
    is near standing in for them.

    A blur is undone by amplifying, so that no smooth stand-in agrees with the true samples beside
    it: the picture between would ring to black and white. Noise bounds the amplification, and is
    told apart by singular values, which there are none of where samples are left out.
    """
    stencil = plan.task.stencil
    blurred = stencil is not None and stencil.scale == 1
    possible = describe_method(plan.spec.sampling.method).takes != "spectral"
    exact = possible and not plan.spec.task.noisy
    return plan.rules != FIRST and blurred and exact and keeps_nodata(plan)


def carry_nodata(
    run: RunDir, plan: Plan, box: Box, pixels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return the stored pixels (C, h, w) of the output's `box` with the input's own samples where
    those are none, and how opaque the pixels are, 0 where these lie; None: 255 everywhere.

    An output of other bands than the input has no data where every band of the input has none.
    """
    if not keeps_nodata(plan):
        return pixels, None
    spec = plan.spec.input
    scale = plan.task.scale
    top, _, _, left = spec.pad or (0, 0, 0, 0)
    height, width = spec.size or (0, 0)
    inner = box.shift(-top, -left)
    under = inner.cover(scale).intersect(Box(0, 0, height, width))
    if under.empty:
        return pixels, None
    reader = open_file(spec, run.staged_input)
    place = under.shift(*(spec.crop or (0, 0))[:2])
    try:
        stored, empty = read_measured(plan, reader, place)
        opacity = reader.opacity(place) if spec.keep_mask in WITH_OPACITY else None
    finally:
        reader.close()
    empty = kept_empty(run, plan, under, empty)
    soft = opacity is not None and bool((opacity < VALID).any())
    if not soft and (empty is None or not empty.any()):
        return pixels, None
    if empty is None:
        empty = np.zeros((1, *under.shape), bool)
    source = stored.astype(pixels.dtype)
    if len(stored) != len(pixels):
        source = np.full_like(stored[:1], _no_value(plan), pixels.dtype)
    if len(empty) not in (1, len(pixels)):
        empty = np.asarray(empty.all(axis=0, keepdims=True))
    part = under.scale(scale).intersect(inner)
    inside = part.shift(-under.y0 * scale, -under.x0 * scale).slices()
    fine, values, opaque = (
        array.repeat(scale, axis=1).repeat(scale, axis=2)[(slice(None), *inside)]
        for array in (empty, source, _opaque(empty, opacity))
    )
    target = (slice(None), *part.shift(-inner.y0, -inner.x0).slices())
    out = pixels.copy()
    np.copyto(out[target], values, where=fine)
    marks = np.full(pixels.shape, VALID, np.uint8)
    marks[target] = opaque
    return out, marks


def _opaque(empty: Marks, opacity: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return how opaque samples are: 0 where they stay empty, wholly where they were filled."""
    if opacity is None:
        return marked(~empty, empty.shape)
    if len(opacity) != len(empty):
        opacity = opacity[:1]
    filled = np.where(opacity == 0, np.uint8(VALID), opacity)
    return np.where(empty, np.uint8(0), filled)


def _no_value(plan: Plan) -> float:
    """Return what stands for no data in an output of other bands than the input."""
    nodata = plan.spec.input.keep_nodata
    if nodata is None:
        return math.nan if plan.dtype == "float32" else 0.0
    return nodata


def kept_empty(run: RunDir, plan: Plan, box: Box, empty: Marks | None) -> Marks | None:
    """Return which samples of a window of the input hold nothing and stay so in the output.

    box: in px of the input (or its crop); empty: those that hold nothing (`read_measured`). What a
    mask calls unknown is filled, also where the file has no data. None where every sample is one.
    """
    mask = None if plan.rules == FIRST else open_mask(run, plan)
    if empty is None or mask is None:
        return empty
    scale = plan.task.scale if plan.spec.input.fine_mask else 1
    place = box.shift(*(plan.spec.input.crop or (0, 0))[:2]).scale(scale)
    try:
        samples = mask.read(place)
    finally:
        mask.close()
    return empty & known_by_mask(plan, samples, scale)


def is_empty(plan: Plan, y: Array) -> bool:
    """Tell whether a window of the measurement holds nothing but nodata, which the output keeps."""
    if not keeps_nodata(plan):
        return False
    if plan.rules != FIRST:
        # A grey value is unknown where one band is: the others are to be restored.
        return not (plan.task.masked or plan.task.grey) and bool(np.isnan(y).all())
    value = plan.values.to_unit(np.full(1, stand_in(plan.spec.input, plan.values), plan.dtype))
    return bool((y == value).all())
