"""Fit gain and read noise of photon counts: the variance of their noise grows with their mean.

var = gain (mean - offset) + read^2 is a line (Foi et al. 2008). Every block gives a mean and, from
its finest wavelet coefficients, the variance of its noise; of the blocks of about one mean those
with the least detail decide, as for noise of one level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.noise_models.counts import CountNoise
from kernels.noise_models.gaussian_level import (
    LEAST_COEFFICIENTS,
    NORMAL_MEDIAN,
    diagonal_coefficients,
    is_flat,
)

Float64 = NDArray[np.float64]

# Side of a block, px: small, so that its mean is one.
SIDE = 24
# Groups of blocks of about the same mean.
GROUPS = 24
# Blocks that a group needs, and groups that a line needs.
LEAST_BLOCKS = 4
LEAST_GROUPS = 3
# The share of a group's blocks, of those with the least detail, that decide.
QUIET = 0.3
# Rounds of the fit; the excess over the line, relative to it, above which a group is trusted less;
# and the least variance, relative to the largest, that a weight goes by: where a camera sees no
# light its noise is next to none, and that end must not decide alone.
ROUNDS = 6
USUAL_EXCESS = 0.2
LEAST_SHARE = 0.1
# How far below the true variance that quantile lies where blocks have no detail: the variance of
# a block scatters by 2 x 1.166 / sqrt(n) of itself, and the normal distribution's is at -0.524.
QUIET_BIAS = 0.524 * 2 * 1.1664 / (SIDE // 2 - 1)


@dataclass(frozen=True, slots=True)
class MeanVariance:
    """Mean and noise variance of blocks, stored values; both (n,)."""

    means: Float64
    variances: Float64


def block_moments(
    band: NDArray[Any], valid: NDArray[np.bool_] | None = None
) -> list[tuple[float, float]]:
    """Return (mean, variance of the noise) of each block of a band (h, w) that allows both."""
    samples = band.astype(np.float64)
    if valid is not None:
        samples = np.where(valid, samples, np.nan)
    found = []
    for y in range(0, band.shape[0] - SIDE + 1, SIDE):
        for x in range(0, band.shape[1] - SIDE + 1, SIDE):
            block = samples[y : y + SIDE, x : x + SIDE]
            if is_flat(block):
                continue
            coefficients = diagonal_coefficients(block)
            seen = np.abs(coefficients[np.isfinite(coefficients)])
            if seen.size >= LEAST_COEFFICIENTS:
                deviation = float(np.median(seen)) / NORMAL_MEDIAN
                found.append((float(np.nanmean(block)), deviation**2))
    return found


def fit_line(moments: Sequence[tuple[float, float]]) -> CountNoise | None:
    """Return gain, read noise and offset of the line var = gain mean + b; None where the blocks
    allow none.

    b > 0 is read^2; b < 0 is a camera's offset, from which read noise cannot be told apart: both
    move the line alike, and the stabilised samples too. Means must spread: an image of one
    brightness has noise of one level, whatever its source.
    """
    values = np.asarray(moments, np.float64).reshape(-1, 2)
    if len(values) < LEAST_BLOCKS * LEAST_GROUPS:
        return None
    ordered = values[np.argsort(values[:, 0], kind="stable")]
    count = min(GROUPS, len(ordered) // LEAST_BLOCKS)
    groups = np.array_split(ordered, count)
    means = np.array([group[:, 0].mean() for group in groups])
    quiet = np.array([np.quantile(group[:, 1], QUIET) for group in groups])
    variances = quiet / (1 - QUIET_BIAS)
    if means[-1] - means[0] <= 1e-9 * max(abs(means[-1]), 1.0):
        return None
    gain, intercept = _robust_line(means, variances)
    if gain <= 0:
        return None
    if intercept < 0:
        return CountNoise(gain=gain, offset=-intercept / gain)
    return CountNoise(gain=gain, read=float(np.sqrt(intercept)))


def _robust_line(means: Float64, variances: Float64) -> tuple[float, float]:
    """Return slope and intercept of the line that most groups follow.

    The scatter of a variance grows with itself, so that its inverse is the weight: first by the
    variances found, then by those of the line. Groups far from it count less, those above, where
    detail adds to the noise, sooner.
    """
    expected = np.maximum(variances, variances.max() * LEAST_SHARE)
    trust = np.ones_like(means)
    gain = intercept = 0.0
    for _ in range(ROUNDS):
        gain, intercept = _weighted_line(means, variances, trust / expected)
        line = gain * means + intercept
        expected = np.maximum(line, max(line.max(), variances.max() * 1e-9) * LEAST_SHARE)
        excess = variances / expected - 1
        usual = np.where(excess > 0, USUAL_EXCESS, 2 * USUAL_EXCESS)
        trust = 1 / np.sqrt(np.maximum(1.0, np.abs(excess) / usual))
    return gain, intercept


def _weighted_line(x: Float64, y: Float64, weights: Float64) -> tuple[float, float]:
    """Return slope and intercept of the line with the least weighted squares."""
    design = np.stack([x, np.ones_like(x)], axis=1) * weights[:, None]
    (slope, intercept), *_ = np.linalg.lstsq(design, y * weights, rcond=None)
    return float(slope), float(intercept)
