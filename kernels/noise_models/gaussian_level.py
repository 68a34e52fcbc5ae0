"""Estimate the standard deviation of white noise from the finest wavelet coefficients of windows.

Donoho and Johnstone 1994: the median absolute value of the diagonal coefficients, divided by
0.6745, is the noise's standard deviation where the picture itself leaves few coefficients large.
Texture does not: of many windows those with the least detail decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# Daubechies' orthonormal high-pass filter of two vanishing moments: gradients leave no trace.
_ROOT3 = math.sqrt(3.0)
HIGH_PASS = np.array([1 - _ROOT3, -(3 - _ROOT3), 3 + _ROOT3, -(1 + _ROOT3)]) / (4 * math.sqrt(2.0))

# The median of |n| for n of the standard normal distribution.
NORMAL_MEDIAN = 0.6744897501960817

# Side of the blocks that are judged one by one, px; a block has (SIDE / 2 - 1)^2 coefficients.
SIDE = 32
# The share of blocks, of those with the least detail, that decide.
QUIET = 0.25
# Coefficients that a block must have to be judged: fewer would estimate nothing.
LEAST_COEFFICIENTS = 100


def diagonal_coefficients(band: Float64) -> Float64:
    """Return the finest diagonal wavelet coefficients of a band (h, w), about (h / 2, w / 2).

    The filter has norm 1, so that white noise of deviation sigma gives coefficients of deviation
    sigma. NaN spreads to every coefficient that sees it.
    """
    rows = _filtered(band)
    return _filtered(rows.T).T


def _filtered(values: Float64) -> Float64:
    """Return every second sample of the high-pass filter along the first axis."""
    taps = len(HIGH_PASS)
    count = (len(values) - taps) // 2 + 1
    parts = [weight * values[k : k + 2 * count - 1 : 2] for k, weight in enumerate(HIGH_PASS)]
    return np.asarray(sum(parts))


def block_levels(band: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> list[float]:
    """Return one estimate of the noise's deviation for each block of a band (h, w) that allows one.

    valid: (h, w), False for samples that are unknown or saturated; coefficients that see one are
    left out. A block of one value allows none: such areas are made, not measured. Unit: the
    samples'.
    """
    samples = band.astype(np.float64)
    if valid is not None:
        samples = np.where(valid, samples, np.nan)
    levels = []
    for y in range(0, band.shape[0] - SIDE + 1, SIDE):
        for x in range(0, band.shape[1] - SIDE + 1, SIDE):
            block = samples[y : y + SIDE, x : x + SIDE]
            if is_flat(block):
                continue
            coefficients = diagonal_coefficients(block)
            seen = np.abs(coefficients[np.isfinite(coefficients)])
            if seen.size >= LEAST_COEFFICIENTS:
                levels.append(float(np.median(seen)) / NORMAL_MEDIAN)
    return levels


def is_flat(block: Float64) -> bool:
    """Return whether the known samples of a block are one value."""
    known = block[np.isfinite(block)]
    return bool(known.size) and bool(known.min() == known.max())


def noise_level(levels: Iterable[float]) -> float | None:
    """Return the noise's deviation from the estimates of all blocks; None where there is none.

    The estimate of a block scatters by 1.17 / sqrt(n) of itself for n coefficients, so that the
    quietest quarter of blocks without any detail lies a little low; that bias is divided out.
    """
    ordered = np.sort(np.asarray(list(levels), np.float64))
    if not len(ordered):
        return None
    quiet = float(np.quantile(ordered, QUIET))
    if len(ordered) < 1 / QUIET:
        return quiet
    coefficients = (SIDE // 2 - 1) ** 2
    scatter = 1.1664 / math.sqrt(coefficients)
    return quiet / (1 - NORMAL_MEDIAN * scatter)
