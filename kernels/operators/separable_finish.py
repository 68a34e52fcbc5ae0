"""Make the measurements of a separable blur hold again, within a tolerance, beside pinned pixels.

First on the crossings of free rows and columns, exact by the singular value decompositions of the
restricted 1-D operators. Measurements that also see free pixels in a corner of the window then take
part with those: left to the tile that commits the corner, which others surround by then, they could
not hold any more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.operators.axis_operator import AxisOperator
from kernels.operators.bounded_change import Limits, least_change_within
from kernels.operators.linear_operator import Free
from kernels.operators.tolerance_projection import Effort, Ridge, least_change


class Axes(NamedTuple):
    """The operators along both axes."""

    rows: AxisOperator
    cols: AxisOperator


class Within(NamedTuple):
    """Black and white, and which pixels of a tile (H, W) may still change."""

    limits: Limits
    free: Tensor

    def bounds(self, x: Tensor, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest change of pixels x at these rows and columns."""
        free = self.free[rows[:, None], cols]
        low = torch.where(free, self.limits.low - x, 0.0)
        high = torch.where(free, self.limits.high - x, 0.0)
        return low, high


class Part(NamedTuple):
    """The measurements that see some crossings of rows and columns, of the whole tile."""

    rows: Tensor
    """(m, H)."""
    cols: Tensor
    """(n, W)."""
    seen_rows: Tensor
    """Which measurements these are, down."""
    seen_cols: Tensor
    """Which measurements these are, across."""
    pixel_rows: Tensor
    """Which rows of pixels."""
    pixel_cols: Tensor
    """Which columns of pixels."""

    @property
    def restricted(self) -> tuple[Tensor, Tensor]:
        """Return both operators on the crossings alone."""
        return self.rows[:, self.pixel_rows], self.cols[:, self.pixel_cols]

    def change(
        self,
        x: Tensor,
        y: Tensor,
        ridge: Ridge,
        allowed: Tensor,
        effort: Effort,
        within: Within | None = None,
    ) -> Tensor:
        """Return the least change of a picture x (C, H, W) float64 at these pixels, elsewhere 0."""
        wanted = y.double()[:, self.seen_rows[:, None], self.seen_cols]
        residual = wanted - self.rows @ x @ self.cols.mT
        change = torch.zeros_like(x)
        places = (slice(None), self.pixel_rows[:, None], self.pixel_cols)
        if within is None:
            change[places] = least_change(ridge, residual, allowed, effort)
            return change
        rows, cols = self.restricted
        change[places] = least_change_within(
            ridge,
            (lambda z: rows @ z @ cols.mT, lambda w: rows.mT @ w @ cols),
            residual,
            within.limits.tolerances(wanted, allowed),
            within.bounds(x[places], self.pixel_rows, self.pixel_cols),
            effort,
        )
        return change


def finish_tile(
    axes: Axes,
    b: int,
    x: Tensor,
    y: Tensor,
    free: Free,
    tolerance: float,
    effort: Effort,
    limits: Limits | None = None,
) -> Tensor:
    """Return tile b, x (C, H, W) float64, changed least so that |A x - y| <= tolerance, as near as
    pinned pixels and effort allow. y: (C, h, w). limits: what free pixels must keep to.
    """
    within = None if limits is None else Within(limits, free.pixels[b, 0])
    crossing_rows = _places(free.rows[b])
    crossing_cols = _places(free.cols[b])
    inner = _part(axes, b, crossing_rows, crossing_cols)
    crossings = free.rows[b][:, None] & free.cols[b]
    beyond = free.pixels[b, 0] & ~crossings

    # Measurements that see nothing free beyond the crossings are settled there.
    seen_beyond = inner.rows.abs() @ beyond.to(inner.rows.dtype) @ inner.cols.abs().mT
    settled = seen_beyond == 0
    ridge = _spectral_ridge(*inner.restricted, effort.rho)
    allowed = torch.where(settled, tolerance, math.inf)
    x = x + inner.change(x, y, ridge, allowed, effort, within)
    if settled.all():
        return x

    corner = _corner(axes, b, beyond)
    free_pixels = free.pixels[b, 0][corner.pixel_rows[:, None], corner.pixel_cols]
    ridge = _pinned_ridge(*corner.restricted, ~free_pixels, effort.rho)
    return x + corner.change(x, y, ridge, torch.tensor(tolerance), effort, within)


def _corner(axes: Axes, b: int, beyond: Tensor) -> Part:
    """Return the measurements that see free pixels beyond the crossings, with all that they see."""
    rows = _places(beyond.any(dim=1))
    cols = _places(beyond.any(dim=0))
    seeing = _part(axes, b, rows, cols)
    wide_rows = _places((seeing.rows != 0).any(dim=0))
    wide_cols = _places((seeing.cols != 0).any(dim=0))
    return _part(axes, b, wide_rows, wide_cols)


def _part(
    axes: Axes,
    b: int,
    pixel_rows: Tensor,
    pixel_cols: Tensor,
) -> Part:
    """Return what of tile b's measurements sees the crossings of rows and columns."""
    rows = axes.rows.matrix[b]
    cols = axes.cols.matrix[b]
    seen_rows = _seeing(rows, axes.rows.exact[b], pixel_rows)
    seen_cols = _seeing(cols, axes.cols.exact[b], pixel_cols)
    return Part(rows[seen_rows], cols[seen_cols], seen_rows, seen_cols, pixel_rows, pixel_cols)


def _seeing(matrix: Tensor, exact: Tensor, pixels: Tensor) -> Tensor:
    """Return the exact measurements that see any of the pixels."""
    seeing = (matrix[:, pixels] != 0).any(dim=1)
    return _places(seeing & exact)


def _places(chosen: Tensor) -> Tensor:
    """Return the indices where a vector is true."""
    return chosen.nonzero()[:, 0]


def _spectral_ridge(rows: Tensor, cols: Tensor, rho: float) -> Ridge:
    """Return the exact z-step for A z = rows z cols^T: nothing is pinned."""
    ur, sr, vr = torch.linalg.svd(rows, full_matrices=False)
    uc, sc, vc = torch.linalg.svd(cols, full_matrices=False)
    s = sr[:, None] * sc
    shrink = rho * s / (1 + rho * s * s)

    def solve(w: Tensor) -> tuple[Tensor, Tensor]:
        coefficients = shrink * (ur.mT @ w @ uc)
        z = vr.mT @ coefficients @ vc
        measured = ur @ (s * coefficients) @ uc.mT
        return z, measured

    return solve


def _pinned_ridge(
    rows: Tensor,
    cols: Tensor,
    pinned: Tensor,
    rho: float,
) -> Ridge:
    """Return the exact z-step with z = 0 at pinned (H, W) bool, by multipliers for the pinned
    pixels.

    With M = 1 + rho A^T A: z = M^-1 (rho A^T w - l), and l solves (M^-1)_PP l = (M^-1 rho A^T w)_P.
    """
    loose = _spectral_ridge(rows, cols, rho)
    _, sr, vr = torch.linalg.svd(rows, full_matrices=False)
    _, sc, vc = torch.linalg.svd(cols, full_matrices=False)
    s = (sr[:, None] * sc) ** 2
    lost = rho * s / (1 + rho * s)  # M^-1 = 1 - V lost V^T

    # (M^-1)_PP, from the rows i and columns j that hold pinned pixels.
    i = _places(pinned.any(dim=1))
    j = _places(pinned.any(dim=0))
    along_y = torch.einsum("ab,ai,ak->bik", lost, vr[:, i], vr[:, i])
    block = torch.einsum("bik,bj,bl->ijkl", along_y, vc[:, j], vc[:, j])
    these = pinned[i[:, None], j].flatten()
    lost_there = block.reshape(len(these), -1)[these][:, these]
    identity = torch.eye(int(these.sum()), dtype=block.dtype, device=block.device)
    factor = torch.linalg.cholesky(identity - lost_there)

    def solve(w: Tensor) -> tuple[Tensor, Tensor]:
        z, _ = loose(w)
        multipliers = torch.zeros_like(z)
        multipliers[..., pinned] = torch.cholesky_solve(z[..., pinned].mT, factor).mT
        spread = vr.mT @ (lost * (vr @ multipliers @ vc.mT)) @ vc
        z = z - multipliers + spread
        return z, rows @ z @ cols.mT

    return solve
