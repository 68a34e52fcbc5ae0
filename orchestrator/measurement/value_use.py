"""What share of their range samples use, and what share of them was cut off at its ends.

Both are told from histograms of the whole image, read by windows, in memory of one size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.job.plan import Plan
from orchestrator.job.value_range import LIMITS
from orchestrator.measurement.consistency import windows
from orchestrator.measurement.measurement_reader import Known, read_known
from storage.image import Reader
from storage.validity import both

Int64 = NDArray[np.int64]

# Bins from one range below black to one above white.
BINS = 3 << 14
# Samples within this share of the range are near an end: of a cell whose mean is there some pixels
# can be at the end.
NEAR = 1 / 16
# Percentiles between which samples count as in use.
BETWEEN = (0.01, 0.99)
# Between which normal noise spreads over so many standard deviations.
SIGMAS_BETWEEN = 4.65
# Windows of the output that are read at a time, px.
WINDOW = 1024


@dataclass(slots=True)
class ValueUse:
    """Samples of an image, fed by windows."""

    dtype: str
    low: float
    """Black: stored values from low to high are the range."""
    high: float
    _counts: Int64
    _cut: int = 0
    _near: int = 0

    @classmethod
    def of(cls, dtype: str, low: float, high: float) -> ValueUse:
        """Return one that has seen nothing."""
        return cls(dtype, low, high, np.zeros(BINS, np.int64))

    def update(self, samples: NDArray[Any]) -> None:
        """Add samples of any shape, without those that hold nothing."""
        least, most = LIMITS[self.dtype]
        ends = (samples <= least) | (samples >= most)
        ends |= (samples == self.low) | (samples == self.high)
        self._cut += int(ends.sum())
        low, high = self.low + NEAR * self._levels, self.high - NEAR * self._levels
        self._near += int((ends | (samples <= low) | (samples >= high)).sum())
        place = (samples.astype(np.float64) - self.low) / self._levels + 1.0
        bins = (place * (BINS / 3)).clip(0, BINS - 1).astype(np.int64)
        self._counts += np.bincount(bins.ravel(), minlength=BINS)

    @property
    def _levels(self) -> float:
        return self.high - self.low

    @property
    def near(self) -> float:
        """Return the share of samples within NEAR of the range of an end, or beyond."""
        return self._near / max(self.samples, 1)

    @property
    def samples(self) -> int:
        """Return how many have been seen."""
        return int(self._counts.sum())

    @property
    def cut(self) -> float:
        """Return the share of samples at an end of the dtype or of the range."""
        return self._cut / max(self.samples, 1)

    @property
    def used(self) -> float:
        """Return the distance between the percentiles `BETWEEN`, as a share of the range."""
        if not self.samples:
            return 0.0
        sums = np.cumsum(self._counts)
        low, high = (int(np.searchsorted(sums, share * sums[-1])) for share in BETWEEN)
        return (high - low) * 3 / BINS


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesOfBoth:
    """What an output and its input do with their range."""

    output_cut: float
    """Share of the samples at an end of the dtype or of the range."""
    input_near: float
    """Share of the samples that are near an end, within NEAR of the range."""
    output_used: float
    """Distance between two percentiles, as a share of the range."""
    input_used: float | None
    """None where the input is no picture of what was restored."""
    input_used_without_noise: float | None
    """At least, where the noise is known; 0 where it can be all that there is."""


def values_of_both(
    plan: Plan, image: Reader, measured: Reader | None, known: Known | None = None
) -> ValuesOfBoth:
    """Measure both images, by windows; samples without data and unknown ones do not count.

    known: tells the known samples of a window of the input (`input_known`); None: all are.
    """
    low, high = plan.values.low, plan.values.high
    output = ValueUse.of(plan.dtype, low, high)
    for box in windows(plan.height, plan.width, WINDOW):
        pixels, valid = image.read_valid(box)
        if plan.spec.input.positive:  # samples without a logarithm are none, and stay as they were
            valid = both(valid, pixels > 0)
        output.update(pixels if valid is None else _those(pixels, valid))
    before = ValueUse.of(plan.dtype, low, high)
    if measured is not None:
        for box in windows(measured.info.height, measured.info.width, WINDOW):
            before.update(_those(*read_known(plan, measured, known, box)))
    seen = measured is not None and before.samples > 0
    return ValuesOfBoth(
        output_cut=output.cut,
        input_near=before.near,
        output_used=output.used,
        input_used=before.used if seen else None,
        input_used_without_noise=_without_noise(plan, before.used) if seen else None,
    )


def _without_noise(plan: Plan, used: float) -> float:
    """Return what the picture beneath the noise uses at least, as far as the noise is known."""
    if plan.values.noise is not None:
        return 0.0
    noise = SIGMAS_BETWEEN * plan.levels[0].sigma_y / 2.0
    return math.sqrt(max(used**2 - noise**2, 0.0))


def _those(samples: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[Any]:
    return samples[np.broadcast_to(chosen, samples.shape)]
