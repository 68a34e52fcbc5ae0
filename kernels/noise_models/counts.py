"""Photon counts: variance-stabilise Poisson-Gaussian samples, and bring what was restored back.

A sample is z = gain p + n with p of a Poisson distribution and n normal of deviation `read`
(both in stored values). The generalised Anscombe transformation makes its noise about normal with
deviation 1 (Starck et al. 1998); the exact unbiased inverse maps the mean of transformed samples
back to the mean of the samples (Makitalo and Foi 2013, Optimal Inversion of the Generalized
Anscombe Transformation). The algebraic inverse would be too dark by a quarter of a count and more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# Nodes of Gauss-Hermite quadrature over the read noise.
NODES = 40
# Means, in counts, up to which the expectation is summed term by term; beyond, the asymptotic
# series of the inverse is exact to a thousandth of a count.
LARGEST_MEAN = 120.0
# Steps by which the asymptotic inverse is undone, from a start that is right to a tenth.
NEWTON_STEPS = 4
# Means at which the expectation is tabulated.
TABLE = 600


@dataclass(frozen=True)
class CountNoise:
    """Stabilise samples of gain `gain` and read noise `read`; raises ValueError for none."""

    gain: float
    """Stored values per count."""
    read: float = 0.0
    """Standard deviation of the read noise, stored values."""
    offset: float = field(default=0.0)
    """Stored value of no light."""

    def __post_init__(self) -> None:
        if not (self.gain > 0 and math.isfinite(self.gain)):
            raise ValueError(
                f"gain {self.gain:g} is no gain; give stored values per count, above 0"
            )
        if not (self.read >= 0 and math.isfinite(self.read)):
            raise ValueError(f"read noise {self.read:g} is no deviation; give 0 or more")

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise of stabilised samples."""
        return 1.0

    @property
    def positive(self) -> bool:
        """Whether samples at or below 0 cannot have been measured."""
        return False

    @property
    def _sigma(self) -> float:
        """The read noise in counts."""
        return self.read / self.gain

    def stabilise(self, samples: NDArray[np.floating]) -> Float64:
        """Return samples, of any shape, with noise of about unit deviation."""
        counts = (samples.astype(np.float64) - self.offset) / self.gain
        return _anscombe(counts, self._sigma)

    def unstabilise(self, values: NDArray[np.floating]) -> Float64:
        """Return the samples that were stabilised: `stabilise` undone, not its mean."""
        counts = (0.5 * values.astype(np.float64)) ** 2 - 0.375 - self._sigma**2
        return counts * self.gain + self.offset

    def invert(self, values: NDArray[np.floating]) -> Float64:
        """Return the mean samples whose stabilised samples have the means `values`."""
        means, expected = self._table
        wanted = values.astype(np.float64)
        inside = np.interp(wanted, expected, means)
        counts = np.where(wanted <= expected[-1], inside, _asymptotic(wanted, self._sigma))
        return counts * self.gain + self.offset

    def expect(self, samples: NDArray[np.floating]) -> Float64:
        """Return the means of stabilised samples whose means are `samples`: `invert` undone."""
        means, expected = self._table
        wanted = np.maximum((samples.astype(np.float64) - self.offset) / self.gain, 0.0)
        values = 2.0 * np.sqrt(wanted + 0.375 + self._sigma**2)
        for _ in range(NEWTON_STEPS):
            values -= (_asymptotic(values, self._sigma) - wanted) / (0.5 * values)
        inside = np.interp(wanted, means, expected)
        return np.where(wanted <= means[-1], inside, values)

    @cached_property
    def _table(self) -> tuple[Float64, Float64]:
        """Means in counts, denser near none, and the expected stabilised sample of each."""
        means = LARGEST_MEAN * np.linspace(0, 1, TABLE) ** 2
        return means, _expected(means, self._sigma)


def _anscombe(counts: Float64, sigma: float) -> Float64:
    return 2.0 * np.sqrt(np.maximum(counts + 0.375 + sigma**2, 0.0))


def _expected(means: Float64, sigma: float) -> Float64:
    """Return E[f(p + n)] for Poisson p of each mean and normal n of deviation sigma."""
    most = int(LARGEST_MEAN + 12 * math.sqrt(LARGEST_MEAN) + 12)
    counts = np.arange(most + 1, dtype=np.float64)
    if sigma > 0:
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        noisy = counts[:, None] + sigma * nodes
        stabilised = _anscombe(noisy, sigma) @ (weights / weights.sum())
    else:
        stabilised = _anscombe(counts, 0.0)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(counts == 0, 0.0, counts * np.log(means[:, None]))
    logs[means == 0, 1:] = -np.inf
    probabilities = np.exp(logs - means[:, None] - log_factorials)
    return np.asarray(probabilities @ stabilised)


def _asymptotic(values: Float64, sigma: float) -> Float64:
    """Return the closed form of the inverse for large values (Makitalo and Foi 2013, Eq. 10)."""
    d = np.maximum(values, 1.0)
    root = math.sqrt(1.5)
    series = 0.25 * d**2 + 0.25 * root / d - 11 / 8 / d**2 + 5 / 8 * root / d**3
    return np.asarray(series - 0.125 - sigma**2)
