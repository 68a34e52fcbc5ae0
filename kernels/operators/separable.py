"""Blur and bicubic decimation along both axes, with the spectral pseudo-inverse of the small 1-D
operators.

A X = R X C^T, R and C of (tile / scale, tile) px. With R = U_r S_r V_r^T and C = U_c S_c V_c^T the
singular values of A are the products s_i s_j, its singular pictures the outer products: an n^2 x
n^2 decomposition at the price of two n x n ones. A measurement whose support leaves tile or picture
has a row of zeros and constrains nothing, so the neighbours of a tile, the picture's border and its
padding need no special case.

Singular values up to `threshold` are left to the network: A+ then is the pseudo-inverse of the
truncated A, and A A+ A = A up to the threshold. `finish` restores |A x - y| <= tolerance at the end
(kernels.operators.tolerance_projection).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels.operators.axis_operator import AxisOperator, axis_matrix, sandwich
from kernels.operators.bounded_change import Limits
from kernels.operators.linear_operator import Free, Operator
from kernels.operators.separable_finish import Axes, finish_tile
from kernels.operators.stencil import Stencil
from kernels.operators.tolerance_projection import Effort, least_squares

# Conjugate gradient steps of a decimation's correction at most.
MANY = 1000
# Thresholds from here on are those of 8 bit, where more effort would begin to fit the measurement's
# noise.
COARSE = 0.01

# Steps towards black and white, and weights of the measurement (8 bit, more, decimation): the lower
# one of a blur keeps its small singular values from filling the picture with noise.
BOUNDED_STEPS = 200
BOUNDED_WEIGHTS = (1.0, 3e3, 100.0)

# Products of singular values below this count as 0 in any case: float64 cannot tell them from it.
NOTHING = 1e-12

Box = tuple[int, int, int, int]
"""y0, x0, y1, x1, px; half-open."""


@dataclass(frozen=True, slots=True, eq=False)
class Separable(Operator):
    """Measure by a matrix along y and another along x, each tile by its own."""

    rows: AxisOperator
    cols: AxisOperator
    scale: int = field()
    threshold: float = field()
    """Singular values of A up to this are truncated in A+."""

    @property
    def surjective(self) -> bool:
        """Tell that rows of zeros cannot be reached."""
        return False

    @classmethod
    def build(
        cls,
        stencil: Stencil,
        side: int,
        inside: Sequence[Box],
        threshold: float,
    ) -> Separable:
        """Return the operator of tiles of side x side px; inside: per tile, the box y0, x0, y1, x1
        that is picture.
        """
        rows = [axis_matrix(stencil, 0, side, y0, y1) for y0, _, y1, _ in inside]
        cols = [axis_matrix(stencil, 1, side, x0, x1) for _, x0, _, x1 in inside]
        return cls(AxisOperator.of(rows), AxisOperator.of(cols), stencil.scale, threshold)

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H/scale, W/scale), 0 where a measurement is not wholly inside."""
        return sandwich(self.rows.matrix, x, self.cols.matrix.mT)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, (B, C, H, W)."""
        return sandwich(self.rows.matrix.mT, y, self.cols.matrix)

    def pinv(self, y: Tensor) -> Tensor:
        """Return A+ y over the singular values above the threshold, (B, C, H, W)."""
        s = self.spectrum.to(y.dtype)
        kept = s > 0
        divisor = torch.where(kept, s, 1.0)
        coefficients = sandwich(self.rows.u.mT, y, self.cols.u)
        divided = torch.where(kept, coefficients / divisor, 0.0)
        return sandwich(self.rows.vt.mT, divided, self.cols.vt)

    @property
    def spectrum(self) -> Tensor:
        """Return the singular values of A, (B, 1, k, k), 0 for the truncated ones."""
        least = max(self.threshold, NOTHING)
        products = self.rows.s[:, :, None] * self.cols.s[:, None, :]
        kept = torch.where(products > least, products, 0.0)
        return kept[:, None]

    def singular_values(self, x: Tensor) -> float:
        """Return the greatest; `weights` has functions of all of them."""
        return float(self.spectrum.max())

    def range_project(self, x: Tensor) -> Tensor:
        """Return the part of x in the singular pictures above the threshold."""
        kept = (self.spectrum > 0).to(x.dtype)
        return self.filter(x, kept)

    def filter(self, x: Tensor, values: Tensor) -> Tensor:
        """Return x with each singular picture weighed by values (B, 1, k, k)."""
        coefficients = sandwich(self.rows.vt, x, self.cols.vt.mT)
        weighed = values.to(x.dtype) * coefficients
        return sandwich(self.rows.vt.mT, weighed, self.cols.vt)

    def weights(
        self,
        x: Tensor,
        f: Callable[[float | Tensor], tuple[Tensor, ...]],
    ) -> tuple[SpectralWeight, ...]:
        """Return functions of the singular values, computed together, as weights that multiply
        pictures.
        """
        columns = f(self.spectrum.to(x.dtype))
        return tuple(SpectralWeight(self, values) for values in columns)

    def finish(
        self,
        x: Tensor,
        y: Tensor,
        free: Free,
        tolerance: float,
    ) -> Tensor:
        """Return x changed least so that |A x - y| <= tolerance, as near as pinned pixels and
        effort allow; computed in float64, returned like x.
        """
        # Decimation is well conditioned but where a border cuts: exact, and no noise to be kept
        # out.
        if self.scale > 1:
            return self._solved(x, y, free.pixels, tolerance)
        axes = Axes(self.rows, self.cols)
        tiles = [
            finish_tile(axes, b, tile, y[b], free, tolerance, self.effort)
            for b, tile in enumerate(x.double())
        ]
        return torch.stack(tiles).to(x.dtype)

    def finish_within(
        self,
        x: Tensor,
        y: Tensor,
        free: Free,
        tolerance: float,
        limits: Limits,
    ) -> Tensor:
        """Return x (a tile that `finish` has left) with its free pixels within black and white."""
        axes = Axes(self.rows, self.cols)
        effort = self._bounded_effort
        tiles = [
            finish_tile(axes, b, tile, y[b], free, tolerance, effort, limits)
            for b, tile in enumerate(x.double())
        ]
        return torch.stack(tiles).to(x.dtype)

    def _solved(
        self,
        x: Tensor,
        y: Tensor,
        free: Tensor,
        tolerance: float,
    ) -> Tensor:
        """Correct on every free pixel, the window's corners included, by conjugate gradients."""
        exact = self.rows.exact[:, None, :, None] & self.cols.exact[:, None, None, :]

        def measure(z: Tensor) -> Tensor:
            measured = self.A(torch.where(free, z, 0.0))
            return torch.where(exact, measured, 0.0)

        def adjoint(w: Tensor) -> Tensor:
            back = self.adjoint(torch.where(exact, w, 0.0))
            return torch.where(free, back, 0.0)

        residual = torch.where(exact, y.double() - self.A(x.double()), 0.0)
        z = least_squares(measure, adjoint, residual, tolerance, MANY)
        return x + z.to(x.dtype)

    @property
    def _bounded_effort(self) -> Effort:
        """Return the effort of `finish_within`."""
        coarse, deep, decimation = BOUNDED_WEIGHTS
        blur = coarse if self.threshold >= COARSE else deep
        return Effort(rho=decimation if self.scale > 1 else blur, iterations=BOUNDED_STEPS)

    @property
    def effort(self) -> Effort:
        """Return the effort of `finish`: measured on 8 and 16 bit (orchestrator/DESIGN.md)."""
        rho, iterations = (0.3, 200) if self.threshold >= COARSE else (3.0, 400)
        least = max(self.threshold, NOTHING)
        return Effort(rho=rho / least**2, iterations=iterations)


@dataclass(frozen=True, slots=True, eq=False)
class SpectralWeight:
    """A function of A^T A that multiplies pictures of A's range: w * x = V diag(w) V^T x."""

    operator: Separable
    values: Tensor
    """(B, 1, k, k)."""

    def __mul__(self, x: Tensor) -> Tensor:
        kept = self.operator.spectrum > 0
        values = torch.where(kept, self.values, 0.0)
        return self.operator.filter(x, values)

    def __sub__(self, other: Tensor) -> SpectralWeight:
        return SpectralWeight(self.operator, self.values - other)
