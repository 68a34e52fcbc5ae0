"""Weights with which a measurement value sees the picture: blur kernels and the antialiased
bicubic. numpy only.

Only measurements whose whole support lies inside the picture, or inside a tile, constrain it
(method.md section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# A kernel's weights may miss a sum of 1 by this much; beyond it the restored picture would be
# brighter or darker.
SUM_TOLERANCE = 1e-3
# Second singular value over the first, below which a kernel counts as a product of two axes.
RANK_ONE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stencil:
    """Measurement (i, j) is the sum of weights[a, b] x[i scale + before + a, j scale + before + b]."""

    rows: tuple[float, ...]
    """Weights along y; with `cols` their product is the kernel, unless `full` gives a kernel that
    is no product.
    """
    cols: tuple[float, ...]
    scale: int = 1
    full: tuple[tuple[float, ...], ...] = ()
    shared: ClassVar[bool] = True
    """All tiles of a batch have the same."""

    @property
    def separable(self) -> bool:
        return not self.full

    @property
    def weights(self) -> Float64:
        """Return the kernel, (taps along y, taps along x)."""
        return np.array(self.full) if self.full else np.outer(self.rows, self.cols)

    @property
    def taps(self) -> tuple[int, int]:
        """Return the support along y and x, px."""
        return len(self.rows), len(self.cols)

    @property
    def reach(self) -> int:
        """Return the larger support less the cell itself: how far measurements couple pixels of two
        cells, px.
        """
        return max(self.taps) - self.scale

    def before(self, axis: int) -> int:
        """Return the first tap's place relative to i scale: the support is centred on the cell of
        scale px.
        """
        return (self.scale - self.taps[axis]) // 2

    def inside(self, axis: int, low: int, high: int) -> tuple[int, int]:
        """Return the half-open range of measurements whose support lies in the pixels [low, high)."""
        first = self.before(axis)
        taps = self.taps[axis]
        start = -(-(low - first) // self.scale)
        return start, max((high - first - taps) // self.scale + 1, start)

    def matrix(
        self, axis: int, side: int, low: int, high: int
    ) -> tuple[Float64, NDArray[np.bool_]]:
        """Return the operator of one axis on a window of `side` px whose pixels [low, high) are
        picture.

        (side/scale, side), and which of its rows are exact: those whose support lies in window and
        picture. Decimation has rows beside the picture's edge too, as if the picture went on by
        reflection: a hint that keeps its last pixels from drifting while sampling, never a
        measurement. All other rows are 0.
        """
        weights = (self.rows, self.cols)[axis]
        found = np.zeros((side // self.scale, side))
        start, stop = self.inside(axis, max(low, 0), min(high, side))
        exact = np.zeros(len(found), dtype=bool)
        exact[max(start, 0) : max(stop, 0)] = True
        for i in range(len(found)):
            places = i * self.scale + self.before(axis) + np.arange(len(weights))
            if not exact[i]:
                if self.scale == 1 or not low <= i * self.scale < high:
                    continue
                places = np.where(places < low, 2 * low - 1 - places, places)
                places = np.where(places >= high, 2 * high - 1 - places, places)
            if places.min() >= max(low, 0) and places.max() < min(high, side):
                np.add.at(found[i], places, weights)
        return found, exact

    def measure(self, x: Float64) -> Float64:
        """Return the measurements of x (C, h, w) whose support lies inside it, from `inside(axis,
        0, ...)` on.
        """
        (y0, y1), (x0, x1) = (self.inside(axis, 0, x.shape[1 + axis]) for axis in (0, 1))
        if self.full:
            rows = (self._row(x, a, y0, y1, x0, x1, row) for a, row in enumerate(self.full))
            return np.sum(list(rows), axis=0)  # type: ignore[no-any-return]
        inner = _strided(x, 2, self.cols, self.before(1), self.scale, x0, x1)
        return _strided(inner, 1, self.rows, self.before(0), self.scale, y0, y1)

    def _row(
        self, x: Float64, a: int, y0: int, y1: int, x0: int, x1: int, weights: Sequence[float]
    ) -> Float64:
        return _strided(
            _strided(x, 1, (1.0,), self.before(0) + a, 1, y0, y1),
            2,
            weights,
            self.before(1),
            1,
            x0,
            x1,
        )


def uniform(taps: int) -> Stencil:
    """Return the mean over taps x taps px."""
    return _blur(_even(taps), _even(taps))


def gaussian(sigma: float, taps: int | None = None) -> Stencil:
    """Return a Gaussian blur of standard deviation sigma px; taps default to 3 sigma on either
    side.
    """
    return anisotropic(sigma, sigma, taps)


def anisotropic(sigma_y: float, sigma_x: float, taps: int | None = None) -> Stencil:
    """Return a Gaussian blur with a standard deviation of its own along y and along x, px."""
    return _blur(_bell(sigma_y, taps), _bell(sigma_x, taps))


def bicubic(scale: int) -> Stencil:
    """Return antialiased bicubic decimation: Keys' kernel (a = -1/2) stretched by `scale`, weights
    summing to 1.
    """
    reach = 2 * scale
    centre = (scale - 1) / 2
    places = np.arange(math.floor(centre - reach) + 1, math.ceil(centre + reach))
    weights = _keys((places - centre) / scale)
    taps = tuple(float(w) for w in weights / weights.sum())
    return Stencil(rows=taps, cols=taps, scale=scale)


def from_weights(weights: Float64, *, normalise: bool) -> Stencil:
    """Return the blur of a given kernel (odd, odd); a product of two axes is recognised by its
    singular values.

    normalise: divide by the sum (a kernel image has no unit); else raise ValueError for a sum that
    is not 1.
    """
    if weights.ndim != 2 or not weights.size or any(side % 2 == 0 for side in weights.shape):
        raise ValueError(
            f"blur kernel of shape {weights.shape} has no centre pixel; give one with odd sides"
        )
    total = float(weights.sum())
    if not np.isfinite(weights).all() or total <= 0:
        raise ValueError(f"blur kernel sums to {total:g}; give weights that sum to 1")
    if not normalise and abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"blur kernel sums to {total:.4g} instead of 1; divide it by its sum")
    weights = weights / total
    u, s, vt = np.linalg.svd(weights)
    if len(s) == 1 or s[1] <= RANK_ONE * s[0]:
        return _blur(_unit(u[:, 0]), _unit(vt[0]))
    full = tuple(tuple(float(w) for w in row) for row in weights)
    return Stencil(rows=(0.0,) * len(full), cols=(0.0,) * len(full[0]), full=full)


def rounding_gain(stencil: Stencil) -> float:
    """Return the standard deviation of A e for rounding errors e, each uniform within half a level,
    in levels.
    """
    return float(np.linalg.norm(stencil.weights)) / math.sqrt(12)


def _blur(rows: Float64, cols: Float64) -> Stencil:
    return Stencil(rows=tuple(float(w) for w in rows), cols=tuple(float(w) for w in cols))


def _even(taps: int) -> Float64:
    _check_taps(taps)
    return np.full(taps, 1 / taps)


def _bell(sigma: float, taps: int | None) -> Float64:
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(
            f"blur sigma {sigma:g} px is not above 0; give the blur's standard deviation in px"
        )
    count = 2 * math.ceil(3 * sigma) + 1 if taps is None else taps
    _check_taps(count)
    places = np.arange(count) - count // 2
    return _unit(np.exp(-0.5 * (places / sigma) ** 2))


def _check_taps(taps: int) -> None:
    if taps < 1 or taps % 2 == 0:
        raise ValueError(
            f"blur of {taps} taps has no centre pixel; choose an odd number of at least 1"
        )


def _unit(weights: Float64) -> Float64:
    return np.asarray(weights / weights.sum())


def _keys(u: Float64) -> Float64:
    u = np.abs(u)
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    return np.where(u <= 1, near, np.where(u < 2, far, 0.0))


def _strided(
    x: Float64, axis: int, weights: Sequence[float], before: int, scale: int, start: int, stop: int
) -> Float64:
    shape = list(x.shape)
    shape[axis] = stop - start
    total = np.zeros(shape)
    if stop > start:
        for k, weight in enumerate(weights):
            first = start * scale + before + k
            places = [slice(None)] * x.ndim
            places[axis] = slice(first, first + (stop - start - 1) * scale + 1, scale)
            total += weight * x[tuple(places)]
    return total
