"""Blur by any kernel, one that is no product of two axes included: matrix-free, with a damped pseudo-inverse.

A+ y = A^T (A A^T + delta)^-1 y by a fixed number of conjugate gradient steps, so that nothing waits for the device.
delta = threshold^2 plays the part of truncation: directions with singular values well above the threshold are inverted,
those well below are left to the network. A A+ A = A up to delta and what the steps leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.operators import Free, Operator
from kernels.stencil import Stencil
from kernels.within import Effort, least_change, ridge_by_gradients

# Conjugate gradient steps of one A+.
STEPS = 25


@dataclass(frozen=True, slots=True, eq=False)
class Convolution(Operator):
    """Measure by a 2-D kernel; only where the whole support is inside."""

    stencil: Stencil
    valid: Tensor
    """(B, 1, H, W) bool, true where a measurement's support lies inside both tile and picture."""
    threshold: float = field()
    steps: int = STEPS
    scale: int = 1

    @property
    def surjective(self) -> bool:
        """Tell that measurements at the border cannot be reached."""
        return False

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W), 0 where the support is not wholly inside."""
        return torch.where(self.valid, _each(F.conv2d, x, self._kernel(x), self.stencil.taps), 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, (B, C, H, W)."""
        masked = torch.where(self.valid, y, 0.0)
        return _each(F.conv_transpose2d, masked, self._kernel(y), self.stencil.taps)

    def pinv(self, y: Tensor) -> Tensor:
        """Return A+ y, (B, C, H, W), each channel by its own steps."""
        delta = self.threshold**2
        mu = torch.zeros_like(y)
        r = torch.where(self.valid, y, 0.0)
        p, size = r, _dot(r, r)
        for _ in range(self.steps):
            q = self.A(self.adjoint(p)) + delta * p
            step = size / _dot(p, q).clamp(min=1e-30)
            mu, r = mu + step * p, r - step * q
            after = _dot(r, r)
            p, size = r + after / size.clamp(min=1e-30) * p, after
        return self.adjoint(mu)

    def singular_values(self, x: Tensor) -> float:
        """Return 1, the greatest of a blur; there is no cheaper bound for each direction."""
        return 1.0

    def finish(self, x: Tensor, y: Tensor, free: Free, tolerance: float) -> Tensor:
        """Return x changed least on the free pixels so that |A x - y| <= tolerance; see `kernels.within`."""
        may = free.pixels.double()
        left = torch.where(self.valid, y.double() - self.A(x.double()), 0.0)
        effort = Effort(rho=0.3 / self.threshold**2, iterations=100)
        seen = (self.A(may) > 0).double()  # measurements of pinned pixels alone cannot be changed
        ridge = ridge_by_gradients(
            lambda z: seen * self.A(may * z), lambda w: may * self.adjoint(seen * w), effort.rho
        )
        allowed = torch.full_like(left, tolerance)
        return x + least_change(ridge, left * seen, allowed, effort).to(x.dtype)

    def _kernel(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.stencil.weights, dtype=x.dtype, device=x.device)[None, None]


def valid_mask(stencil: Stencil, side: int, inside: tuple[int, int, int, int]) -> Tensor:
    """Return (1, side, side) bool, true for measurements whose support lies in tile and box (y0, x0, y1, x1)."""
    found = torch.zeros((1, side, side), dtype=torch.bool)
    y0, x0, y1, x1 = inside
    top, bottom = stencil.inside(0, max(y0, 0), min(y1, side))
    left, right = stencil.inside(1, max(x0, 0), min(x1, side))
    found[:, top:bottom, left:right] = True
    return found


def _each(convolve: Callable[..., Tensor], x: Tensor, kernel: Tensor, taps: tuple[int, int]) -> Tensor:
    """Convolve every channel by itself, tile by tile on a CPU so that no tile depends on its batch."""
    padding = (taps[0] // 2, taps[1] // 2)
    tiles = x.split(1) if x.device.type == "cpu" else [x]
    done = [convolve(t.flatten(0, 1)[:, None], kernel, padding=padding)[:, 0].view_as(t) for t in tiles]
    return torch.cat(done)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)
