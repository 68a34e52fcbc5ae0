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
Int64 = NDArray[np.int64]
Range = tuple[int, int]  # half-open

# A kernel's weights may miss a sum of 1 by this much; beyond it the restored picture would be
# brighter or darker.
SUM_TOLERANCE = 1e-3
# Second singular value over the first, below which a kernel counts as a product of two axes.
RANK_ONE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stencil:
    """Hold the weights of a measurement of pictures x.

    Measurement (i, j) is the sum of weights[a, b] x[i scale + before + a, j scale + before + b].
    """

    rows: tuple[float, ...]
    """Weights along y; with `cols` their product is the kernel, unless `full` gives a kernel that
    is no product.
    """
    cols: tuple[float, ...]
    """Weights along x."""
    scale: int = 1
    """Pixels between two measurements, along each axis."""
    full: tuple[tuple[float, ...], ...] = ()
    """A kernel that is no product of two axes, row by row; else empty."""
    shared: ClassVar[bool] = True
    """All tiles of a batch have the same."""

    @property
    def separable(self) -> bool:
        """Tell whether the kernel is a product of two axes."""
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

    def inside(
        self,
        axis: int,
        low: int,
        high: int,
    ) -> tuple[int, int]:
        """Return the half-open range of measurements whose support lies in pixels [low, high)."""
        first = self.before(axis)
        last = first + self.taps[axis]
        start = -(-(low - first) // self.scale)
        stop = (high - last) // self.scale + 1
        return start, max(stop, start)

    def matrix(
        self,
        axis: int,
        side: int,
        low: int,
        high: int,
    ) -> tuple[Float64, NDArray[np.bool_]]:
        """Return the operator of one axis on a window of `side` px whose pixels [low, high) are
        picture.

        (side/scale, side), and which of its rows are exact: those whose support lies in window and
        picture. Decimation has rows beside the picture's edge too, as if the picture went on by
        reflection: a hint that keeps its last pixels from drifting while sampling, never a
        measurement. All other rows are 0.
        """
        weights = (self.rows, self.cols)[axis]
        operator = np.zeros((side // self.scale, side))
        left = max(low, 0)
        right = min(high, side)
        start, stop = self.inside(axis, left, right)
        exact = np.zeros(len(operator), dtype=bool)
        exact[max(start, 0) : max(stop, 0)] = True

        for i, row in enumerate(operator):
            cell = i * self.scale
            places = cell + self.before(axis) + np.arange(len(weights))
            if not exact[i]:
                if self.scale == 1 or not low <= cell < high:
                    continue
                places = _reflected(places, low, high)
            if places.min() >= left and places.max() < right:
                np.add.at(row, places, weights)
        return operator, exact

    def measure(self, x: Float64) -> Float64:
        """Return the measurements of x (C, h, w) whose support lies inside it, from `inside(axis,
        0, ...)` on.
        """
        rows = self.inside(0, 0, x.shape[1])
        cols = self.inside(1, 0, x.shape[2])
        if self.full:
            parts = [self._one_row(x, tap, rows, cols) for tap in range(len(self.full))]
            return np.sum(parts, axis=0)  # type: ignore[no-any-return]
        inner = _strided(x, 2, self.cols, self.before(1), self.scale, cols)
        return _strided(inner, 1, self.rows, self.before(0), self.scale, rows)

    def _one_row(
        self,
        x: Float64,
        tap: int,
        rows: Range,
        cols: Range,
    ) -> Float64:
        """Return what one row of a kernel that is no product adds to the measurements."""
        shifted = _strided(x, 1, (1.0,), self.before(0) + tap, 1, rows)
        return _strided(shifted, 2, self.full[tap], self.before(1), 1, cols)


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
    first = math.floor(centre - reach) + 1
    last = math.ceil(centre + reach)
    places = np.arange(first, last)
    weights = _unit(_keys((places - centre) / scale))
    taps = tuple(weights.tolist())
    return Stencil(rows=taps, cols=taps, scale=scale)


def from_weights(weights: Float64, *, normalise: bool) -> Stencil:
    """Return the blur of a given kernel (odd, odd); a product of two axes is recognised by its
    singular values.

    normalise: divide by the sum (a kernel image has no unit); else raise ValueError for a sum that
    is not 1.
    """
    odd = all(side % 2 for side in weights.shape)
    if weights.ndim != 2 or not weights.size or not odd:
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
    full = tuple(tuple(row) for row in weights.tolist())
    no_rows = (0.0,) * weights.shape[0]
    no_cols = (0.0,) * weights.shape[1]
    return Stencil(rows=no_rows, cols=no_cols, full=full)


def rounding_gain(stencil: Stencil) -> float:
    """Return the standard deviation of A e for rounding errors e, each uniform within half a level,
    in levels.
    """
    # A number that is uniform within one level deviates by 1/sqrt(12) of it.
    gain = float(np.linalg.norm(stencil.weights))
    return gain / math.sqrt(12)


def _reflected(places: Int64, low: int, high: int) -> Int64:
    """Return places as if the picture [low, high) went on by reflection at its edges."""
    places = np.where(places < low, 2 * low - 1 - places, places)
    return np.where(places >= high, 2 * high - 1 - places, places)


def _blur(rows: Float64, cols: Float64) -> Stencil:
    return Stencil(rows=tuple(rows.tolist()), cols=tuple(cols.tolist()))


def _even(taps: int) -> Float64:
    _check_taps(taps)
    return np.full(taps, 1 / taps)


def _bell(sigma: float, taps: int | None) -> Float64:
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(
            f"blur sigma {sigma:g} px is not above 0; give the blur's standard deviation in px"
        )
    if taps is None:
        taps = 2 * math.ceil(3 * sigma) + 1
    _check_taps(taps)
    places = np.arange(taps) - taps // 2
    bell = np.exp(-0.5 * (places / sigma) ** 2)
    return _unit(bell)


def _check_taps(taps: int) -> None:
    if taps < 1 or taps % 2 == 0:
        raise ValueError(
            f"blur of {taps} taps has no centre pixel; choose an odd number of at least 1"
        )


def _unit(weights: Float64) -> Float64:
    return np.asarray(weights / weights.sum())


def _keys(u: Float64) -> Float64:
    """Return Keys' cubic convolution kernel, a = -1/2, at distances u from its centre."""
    u = np.abs(u)
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    outer = np.where(u < 2, far, 0.0)
    return np.where(u <= 1, near, outer)


def _strided(
    x: Float64,
    axis: int,
    weights: Sequence[float],
    before: int,
    scale: int,
    wanted: Range,
) -> Float64:
    """Return the measurements `wanted` of x along one axis, the taps added one after the other."""
    start, stop = wanted
    count = stop - start
    shape = list(x.shape)
    shape[axis] = count
    total = np.zeros(shape)
    if count == 0:
        return total

    for tap, weight in enumerate(weights):
        first = start * scale + before + tap
        last = first + (count - 1) * scale
        places = [slice(None)] * x.ndim
        places[axis] = slice(first, last + 1, scale)
        total += weight * x[tuple(places)]
    return total
