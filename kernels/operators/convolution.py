"""Blur by any kernel, one that is no product of two axes included: matrix-free, with a damped
pseudo-inverse.

A+ y = A^T (A A^T + delta)^-1 y by a fixed number of conjugate gradient steps, so that nothing waits
for the device. delta = threshold^2 plays the part of truncation: directions with singular values
well above the threshold are inverted, those well below are left to the network. A A+ A = A up to
delta and what the steps leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.operators.bounded_change import Limits, least_change_within
from kernels.operators.linear_operator import Free, Operator
from kernels.operators.stencil import Stencil
from kernels.operators.tolerance_projection import (
    Effort,
    Ridge,
    least_change,
    ridge_by_gradients,
)

# Conjugate gradient steps of one A+.
STEPS = 25
# Weight of the measurement beside black and white.
BOUNDED_RHO = 10.0
# Least share of a measurement that counts as seen: far above what a Fourier transform leaves of 0.
NOTHING = 1e-9
# Keeps a vanished residual from dividing.
TINY = 1e-30


class _FreePart(NamedTuple):
    """The operator on the free pixels of a tile."""

    measure: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    ridge: Ridge
    residual: Tensor
    effort: Effort


@dataclass(frozen=True, slots=True, eq=False)
class Convolution(Operator):
    """Measure by a 2-D kernel; only where the whole support is inside."""

    stencil: Stencil
    valid: Tensor
    """(B, 1, H, W) bool, true where a measurement's support lies inside both tile and picture; (B,
    C, H, W) where each channel lacks measurements of its own.
    """
    threshold: float = field()
    steps: int = STEPS
    scale: int = 1

    @property
    def surjective(self) -> bool:
        """Tell that measurements at the border cannot be reached."""
        return False

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W), 0 where the support is not wholly inside."""
        measured = _filtered(x, self._response(x).conj())
        return torch.where(self.valid, measured, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, (B, C, H, W)."""
        valid = torch.where(self.valid, y, 0.0)
        return _filtered(valid, self._response(y))

    def pinv(self, y: Tensor) -> Tensor:
        """Return A+ y, (B, C, H, W), each channel by its own steps of conjugate gradients."""
        delta = self.threshold**2
        mu = torch.zeros_like(y)
        r = torch.where(self.valid, y, 0.0)
        p = r
        size = _dot(r, r)
        for _ in range(self.steps):
            q = self.A(self.adjoint(p)) + delta * p
            curvature = _dot(p, q)
            step = size / curvature.clamp(min=TINY)
            mu = mu + step * p
            r = r - step * q

            # The next direction is conjugate to those before it.
            after = _dot(r, r)
            growth = after / size.clamp(min=TINY)
            p = r + growth * p
            size = after
        return self.adjoint(mu)

    def singular_values(self, x: Tensor) -> float:
        """Return 1, the greatest of a blur; there is no cheaper bound for each direction."""
        return 1.0

    def finish(
        self,
        x: Tensor,
        y: Tensor,
        free: Free,
        tolerance: float,
    ) -> Tensor:
        """Return x changed least on the free pixels so that |A x - y| <= tolerance; see
        `kernels.operators.tolerance_projection`.
        """
        part = self._part(x, y, free, 0.3 / self.threshold**2)
        allowed = torch.full_like(part.residual, tolerance)
        change = least_change(part.ridge, part.residual, allowed, part.effort)
        return x + change.to(x.dtype)

    def finish_within(
        self,
        x: Tensor,
        y: Tensor,
        free: Free,
        tolerance: float,
        limits: Limits,
    ) -> Tensor:
        """Return x (a tile that `finish` has left) with its free pixels within black and white."""
        part = self._part(x, y, free, BOUNDED_RHO)
        allowed = torch.tensor(tolerance, dtype=torch.float64)
        low = torch.where(free.pixels, limits.low - x.double(), 0.0)
        high = torch.where(free.pixels, limits.high - x.double(), 0.0)
        change = least_change_within(
            part.ridge,
            (part.measure, part.adjoint),
            part.residual,
            limits.tolerances(y.double(), allowed),
            (low, high),
            part.effort,
        )
        return x + change.to(x.dtype)

    def _part(self, x: Tensor, y: Tensor, free: Free, rho: float) -> _FreePart:
        """Return the operator on the free pixels of x, and what it leaves of y."""
        may = free.pixels.double()
        residual = torch.where(self.valid, y.double() - self.A(x.double()), 0.0)
        effort = Effort(rho=rho, iterations=100)
        # Measurements of pinned pixels alone cannot be changed.
        seen = (self.A(may) > NOTHING).double()

        def measure(z: Tensor) -> Tensor:
            return seen * self.A(may * z)

        def adjoint(w: Tensor) -> Tensor:
            return may * self.adjoint(seen * w)

        power = self._response(may).abs().square()
        damped = 1 / (1 + effort.rho * power)
        ridge = ridge_by_gradients(
            measure,
            adjoint,
            lambda r: may * _filtered(may * r, damped),
            effort.rho,
        )
        return _FreePart(measure, adjoint, ridge, residual * seen, effort)

    def _response(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        return _response(self.stencil, height, width, x.dtype, x.device)


def valid_mask(stencil: Stencil, side: int, inside: tuple[int, int, int, int]) -> Tensor:
    """Return (1, side, side) bool, true for measurements whose support lies in tile and box (y0,
    x0, y1, x1).
    """
    y0, x0, y1, x1 = inside
    top, bottom = stencil.inside(0, max(y0, 0), min(y1, side))
    left, right = stencil.inside(1, max(x0, 0), min(x1, side))
    valid = torch.zeros((1, side, side), dtype=torch.bool)
    valid[:, top:bottom, left:right] = True
    return valid


@lru_cache(maxsize=8)
def _response(
    stencil: Stencil,
    height: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return the Fourier transform of the kernel's weights at their places around pixel (0, 0)."""
    taps_y, taps_x = stencil.taps
    weights = torch.zeros((height, width), dtype=torch.float64)
    weights[:taps_y, :taps_x] = torch.from_numpy(stencil.weights)
    shifts = (stencil.before(0), stencil.before(1))
    placed = weights.roll(shifts, (0, 1)).to(dtype)
    return torch.fft.rfft2(placed).to(device)


def _filtered(x: Tensor, response: Tensor) -> Tensor:
    """Filter every channel by itself, tile by tile on a CPU so that no tile depends on its batch.

    What a transform carries from one edge of the tile to the opposite one lies in measurements that
    are not valid.
    """
    tiles = x.split(1) if x.device.type == "cpu" else [x]
    filtered = []
    for tile in tiles:
        modes = torch.fft.rfft2(tile) * response
        filtered.append(torch.fft.irfft2(modes, s=tile.shape[2:]))
    return torch.cat(filtered)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)
