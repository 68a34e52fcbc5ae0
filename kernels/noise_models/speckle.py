"""Speckle of coherent imaging: the logarithm turns it into noise of one level, with a known bias.

Intensities of L looks are y = x n with n of a gamma distribution of mean 1 and shape L (Goodman
1976). Then log y = log x + log n, where log n has the mean psi(L) - log L and the variance psi'(L).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# What samples at or below 0 count as: something whose logarithm is finite.
FLOOR = 1e-30


@dataclass(frozen=True, slots=True)
class SpeckleNoise:
    """Bring samples of `looks` looks to the logarithm of their power and back; raises ValueError
    for none.
    """

    looks: float
    """Equivalent number of looks; 1 for single-look data."""
    amplitude: bool = False
    """Whether samples are amplitudes, the square roots of intensities."""

    def __post_init__(self) -> None:
        if not (self.looks > 0 and math.isfinite(self.looks)):
            raise ValueError(
                f"{self.looks:g} looks are none; give the equivalent number of looks, 1 or more"
            )

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise of the logarithm."""
        return math.sqrt(trigamma(self.looks))

    @property
    def bias(self) -> float:
        """Mean of the noise of the logarithm; below 0."""
        return digamma(self.looks) - math.log(self.looks)

    @property
    def positive(self) -> bool:
        """Whether samples at or below 0 cannot have been measured."""
        return True

    def stabilise(self, samples: NDArray[np.floating], floor: float = FLOOR) -> Float64:
        """Return the logarithm without its bias; samples at or below 0 count as `floor`."""
        return self.expect(samples, floor) - self.bias

    def expect(self, samples: NDArray[np.floating], floor: float = FLOOR) -> Float64:
        """Return the means of stabilised samples of which `samples` are free of speckle."""
        logs = np.log(np.maximum(samples.astype(np.float64), floor))
        return 2.0 * logs if self.amplitude else logs

    def unstabilise(self, values: NDArray[np.floating]) -> Float64:
        """Return the samples that were stabilised: `stabilise` undone, not its mean."""
        return self.invert(values + self.bias)

    def invert(self, values: NDArray[np.floating]) -> Float64:
        """Return the samples of restored logarithms."""
        logs = values.astype(np.float64)
        return np.exp(0.5 * logs if self.amplitude else logs)


def digamma(x: float) -> float:
    """Return psi(x) for x > 0: the recurrence up to 12, then the asymptotic series."""
    total = 0.0
    while x < 12:
        total -= 1 / x
        x += 1
    inverse = 1 / (x * x)
    series = inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse / 240)))
    return total + math.log(x) - 0.5 / x - series


def trigamma(x: float) -> float:
    """Return psi'(x) for x > 0, as `digamma`."""
    total = 0.0
    while x < 12:
        total += 1 / (x * x)
        x += 1
    inverse = 1 / (x * x)
    series = inverse * (1 / 6 - inverse * (1 / 30 - inverse * (1 / 42 - inverse / 30)))
    return total + 1 / x + 0.5 * inverse + series / x
