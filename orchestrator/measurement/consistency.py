"""|A x - y| of a stored image over the whole picture, in grey levels, by windows: every task's A in
float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kernels.metrics import Consistency, ConsistencyMeter, clipped_cells
from kernels.operators.stencil import Stencil
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.fields.tolerance import DEVIATIONS, HALF, limit
from orchestrator.job.plan import Plan
from orchestrator.job.value_range import LIMITS
from orchestrator.measurement.input_file import read_measured
from orchestrator.measurement.mask_reading import known_by_mask, open_mask
from orchestrator.measurement.measurement_reader import (
    input_known,
    input_measured,
    open_input,
)
from orchestrator.run_folder import RunDir
from storage.box import Box
from storage.image import Reader

Float64 = NDArray[np.float64]
Pixels = NDArray[np.unsignedinteger]
Marks = NDArray[np.bool_] | None
Comparison = tuple[Float64, Float64, Marks, Marks, Marks]
"""A x, y, which values are left out for a clipped pixel, which count, which see a clipped pixel."""

# Standard deviations of the stated noise beyond which a residual is counted as far.
FAR_DEVIATIONS = 3.0
# Levels within which overlapping measurements hold beside black and white.
BESIDE = {"uint8": 1.0, "uint16": 4.0, "int16": 4.0}
# Output pixels along a side of the windows that are read at a time.
WINDOW = 1024


def consistency(run: RunDir, plan: Plan, image: Reader) -> tuple[Consistency, float]:
    """Return what |A x - y| is, and the most that rounding explains, grey levels."""
    meter = ConsistencyMeter(_explained_by_noise(plan))
    if not plan.task.picture:
        return _by_operator(run, plan, image, meter)
    compare = _averaged if plan.task.stencil is None else _overlapping
    for comparison in compare(run, plan, image):
        meter.update(*comparison)
    return meter.result(), limit(plan.task.stencil, plan.dtype, plan.values.levels)


def _explained_by_noise(plan: Plan) -> float:
    """Return how far A x may be from y by noise of the stated deviation, grey levels.

    Without a deviation, or with noise that depends on brightness, nothing is counted.
    """
    task = plan.spec.task
    if task.noise is not None:
        return math.inf
    sigma = task.sigma * (plan.values.levels if task.sigma_unit == "fraction" else 1.0)
    return FAR_DEVIATIONS * sigma + HALF if sigma else math.inf


def _averaged(run: RunDir, plan: Plan, image: Reader) -> Iterator[Comparison]:
    """Compare cells of pixels with their averages: sr, colorize, inpaint, outpaint, denoise and
    what combines them.
    """
    spec = plan.spec.input
    task = plan.task
    source = open_input(run, plan)
    known = input_known(run, plan)
    mask = open_mask(run, plan) if spec.fine_mask else None
    apart = plan.rules == FIRST  # until then clipping moved means
    top, _, _, left = spec.pad or (0, 0, 0, 0)
    for box in windows(*(spec.size or (0, 0)), side=max(WINDOW // task.scale, 1)):
        place = box.scale(task.scale)
        pixels = image.read(place.shift(top, left))
        stored, empty = read_measured(plan, source, box)
        y = stored.astype(np.float64)
        y = y.mean(axis=0, keepdims=True) if task.grey else y
        weights = None
        if mask is not None:
            weights = known_by_mask(plan, mask.read(place)).astype(np.float64)
        clipped = None
        if apart:
            limits = LIMITS[plan.dtype]
            clipped = clipped_cells(pixels, task.scale, limits, across_channels=task.grey)
        measured_again = means(pixels, task.scale, task.grey, weights)
        valid = None if known is None else known(box, stored)
        if empty is not None:  # nodata is no measurement, and not always a number
            empty = np.asarray(empty.any(axis=0, keepdims=True)) if task.grey else empty
            valid = ~empty if valid is None else valid & ~empty
            y = np.where(empty, 0, y)
            measured_again = np.where(empty, 0, measured_again)
        yield measured_again, y, clipped, valid, None


def means(pixels: Pixels, scale: int, grey: bool, weights: Float64 | None) -> Float64:
    """Return the averages of cells, over their known pixels where weights (1, H, W) of 0 and 1 say
    which.
    """
    _, height, width = pixels.shape
    shape = (height // scale, scale, width // scale, scale)
    x = pixels.astype(np.float64)
    x = x.mean(axis=0, keepdims=True) if grey else x
    if weights is None:
        return np.asarray(x.reshape(len(x), *shape).mean(axis=(2, 4)))
    sums = (x * weights).reshape(len(x), *shape).sum(axis=(2, 4))
    counts = weights.reshape(1, *shape).sum(axis=(2, 4))
    return np.asarray(sums / np.maximum(counts, 1))


def _overlapping(run: RunDir, plan: Plan, image: Reader) -> Iterator[Comparison]:
    """Compare measurements whose supports overlap (blur, bicubic), only those wholly inside the
    picture.
    """
    stencil = plan.task.stencil
    source = open_input(run, plan)
    (least, most) = LIMITS[plan.dtype]
    assert stencil is not None, "the caller has checked"
    rows = stencil.inside(0, 0, plan.height)
    cols = stencil.inside(1, 0, plan.width)
    side = max(WINDOW // stencil.scale, 1)
    for y0 in range(rows[0], rows[1], side):
        for x0 in range(cols[0], cols[1], side):
            box = Box(y0, x0, min(y0 + side, rows[1]), min(x0 + side, cols[1]))
            window = support(stencil, box)
            pixels, published = image.read_valid(window)
            stored, empty = read_measured(plan, source, box)
            touches = _touches(stencil, (pixels <= least) | (pixels >= most))
            # Until the second rules clipping moved what overlaps.
            clipped, beside = (touches, None) if plan.rules == FIRST else (None, touches)
            valid = None
            if plan.rules != FIRST and empty is not None:
                # What is no measurement, and what sees it.
                none = np.zeros(pixels.shape, bool)
                blank = none if published is None else none | ~published
                valid = ~empty & ~_touches(stencil, blank)
                pixels = np.where(blank, 0, pixels)
                stored = np.where(empty, 0, stored)
            measured_again = stencil.measure(pixels.astype(np.float64))
            if plan.rules != FIRST:  # y was stored too: it says no more than the dtype can
                measured_again = measured_again.clip(least, most)
            yield measured_again, stored.astype(np.float64), clipped, valid, beside


def support(stencil: Stencil, box: Box) -> Box:
    """Return the pixels that measurements see, beginning on the lattice so that `measure` begins
    with the first.
    """
    s = stencil.scale
    lows = [lo * s + stencil.before(axis) for axis, lo in ((0, box.y0), (1, box.x0))]
    highs = [
        (hi - 1) * s + stencil.before(a) + stencil.taps[a] for a, hi in ((0, box.y1), (1, box.x1))
    ]
    return Box(lows[0] // s * s, lows[1] // s * s, highs[0], highs[1])


def beside_limit(dtype: str, limit: float) -> float:
    """Return how far A x may be from y where overlapping measurements see black or white, levels.

    There pixels have no room on one side, and measurements that are rounded can contradict each
    other: in pictures of which a seventh is black or white, .57 to .94 levels were left.
    """
    return max(limit, BESIDE.get(dtype, 0.0))


def _touches(stencil: Stencil, pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, cols = ((1.0,) * taps for taps in stencil.taps)
    return replace(stencil, rows=rows, cols=cols, full=()).measure(pixels.astype(np.float64)) > 0


def _by_operator(
    run: RunDir, plan: Plan, image: Reader, meter: ConsistencyMeter
) -> tuple[Consistency, float]:
    """Compare by the operator that restored: compressed sensing, or a class of the user's own."""
    from orchestrator.measurement.tile_operator import (
        measure,
        rounding_gain,
    )  # imports torch

    operator = plan.task.operator(plan.spec.task)
    spec = plan.spec.input
    levels = plan.values.levels / 2
    measured = input_measured(run, plan)
    unit = operator.alignment
    scale = operator.scale
    gain = 0.0
    for box in windows(plan.height // unit, plan.width // unit, side=max(WINDOW // unit, 1)):
        place = box.scale(unit)
        pixels = image.read(place)
        measured_again = measure(
            operator, (pixels.astype(np.float64) - plan.values.low) / levels - 1
        )
        gain = max(gain, rounding_gain(operator, pixels.shape))
        cells = Box(place.y0 // scale, place.x0 // scale, place.y1 // scale, place.x1 // scale)
        y = measured.read(cells.y0, cells.x0, cells.y1, cells.x1).astype(np.float64)
        clipped = clipped_cells(pixels, scale, LIMITS[plan.dtype])
        if len(clipped) == spec.bands and len(measured_again) % len(clipped) == 0:
            clipped = clipped.repeat(len(measured_again) // len(clipped), axis=0)
        else:
            clipped = np.broadcast_to(clipped.any(axis=0, keepdims=True), measured_again.shape)
        meter.update(measured_again * levels, y * levels, clipped, None)
    return meter.result(), max(HALF, DEVIATIONS * gain)


def windows(height: int, width: int, side: int) -> Iterator[Box]:
    """Yield boxes of at most side x side that cover height x width."""
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield Box(y, x, min(y + side, height), min(x + side, width))
