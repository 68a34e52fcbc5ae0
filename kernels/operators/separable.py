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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.operators.linear_operator import Free, Operator
from kernels.operators.stencil import Stencil
from kernels.operators.tolerance_projection import Effort, Ridge, least_change, least_squares

# Conjugate gradient steps of a decimation's correction at most.
MANY = 1000
# Thresholds from here on are those of 8 bit, where more effort would begin to fit the measurement's
# noise.
COARSE = 0.01

# Products of singular values below this count as 0 in any case: float64 cannot tell them from it.
NOTHING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Hold one axis' operator and its singular value decomposition, tile by tile, float64."""

    matrix: Tensor
    """(B, m, n)."""
    u: Tensor
    """(B, m, k), k = min(m, n)."""
    s: Tensor
    """(B, k)."""
    vt: Tensor
    """(B, k, n)."""
    exact: Tensor
    """(B, m) bool: rows that are measurements of the picture, not hints beside its edge
    (`Stencil.matrix`).
    """

    @classmethod
    def of(cls, matrices: Sequence[tuple[Tensor, Tensor]]) -> Axis:
        parts = [(m, *_svd(m), exact) for m, exact in matrices]
        return cls(*(torch.stack(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Separable(Operator):
    """Measure by a matrix along y and another along x, each tile by its own."""

    rows: Axis
    cols: Axis
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
        inside: Sequence[tuple[int, int, int, int]],
        threshold: float,
    ) -> Separable:
        """Return the operator of tiles of side x side px; inside: per tile, the box y0, x0, y1, x1
        that is picture.
        """
        rows = [axis_matrix(stencil, 0, side, y0, y1) for y0, _, y1, _ in inside]
        cols = [axis_matrix(stencil, 1, side, x0, x1) for _, x0, _, x1 in inside]
        return cls(Axis.of(rows), Axis.of(cols), stencil.scale, threshold)

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H/scale, W/scale), 0 where a measurement is not wholly inside."""
        return _sandwich(self.rows.matrix, x, self.cols.matrix.mT)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, (B, C, H, W)."""
        return _sandwich(self.rows.matrix.mT, y, self.cols.matrix)

    def pinv(self, y: Tensor) -> Tensor:
        """Return A+ y over the singular values above the threshold, (B, C, H, W)."""
        s = self.spectrum.to(y.dtype)
        found = _sandwich(self.rows.u.mT, y, self.cols.u)
        found = torch.where(s > 0, found / torch.where(s > 0, s, 1.0), 0.0)
        return _sandwich(self.rows.vt.mT, found, self.cols.vt)

    @property
    def spectrum(self) -> Tensor:
        """Return the singular values of A, (B, 1, k, k), 0 for the truncated ones."""
        s = self.rows.s[:, :, None] * self.cols.s[:, None, :]
        return torch.where(s > max(self.threshold, NOTHING), s, 0.0)[:, None]

    def singular_values(self, x: Tensor) -> float:
        """Return the greatest; `weights` has functions of all of them."""
        return float(self.spectrum.max())

    def range_project(self, x: Tensor) -> Tensor:
        """Return the part of x in the singular pictures above the threshold."""
        return self.filter(x, (self.spectrum > 0).to(x.dtype))

    def filter(self, x: Tensor, values: Tensor) -> Tensor:
        """Return x with each singular picture weighed by values (B, 1, k, k)."""
        found = _sandwich(self.rows.vt, x, self.cols.vt.mT)
        return _sandwich(self.rows.vt.mT, values.to(x.dtype) * found, self.cols.vt)

    def weights(
        self, x: Tensor, f: Callable[[float | Tensor], tuple[Tensor, ...]]
    ) -> tuple[SpectralWeight, ...]:
        """Return functions of the singular values, computed together, as weights that multiply
        pictures.
        """
        return tuple(SpectralWeight(self, values) for values in f(self.spectrum.to(x.dtype)))

    def finish(self, x: Tensor, y: Tensor, free: Free, tolerance: float) -> Tensor:
        """Return x changed least so that |A x - y| <= tolerance, as near as pinned pixels and
        effort allow; float64.

        First on the crossings of free rows and columns, exact by the SVDs of the restricted 1-D
        operators. Measurements that also see free pixels in a corner of the window then take part
        with those: left to the tile that commits the corner, which others surround by then, they
        could not hold any more.
        """
        if (
            self.scale > 1
        ):  # well conditioned but where a border cuts: exact, and no noise to be kept out
            return self._solved(x, y, free.pixels, tolerance)
        done = x.double().clone()
        for b in range(len(x)):
            rows = free.rows[b].nonzero()[:, 0]
            cols = free.cols[b].nonzero()[:, 0]
            inner = self._part(b, rows, cols)
            beyond = free.pixels[b, 0] & ~(free.rows[b][:, None] & free.cols[b])
            settled = inner.rows.abs() @ beyond.to(inner.rows.dtype) @ inner.cols.abs().mT == 0
            ridge = _spectral_ridge(inner.rows[:, rows], inner.cols[:, cols], self.effort.rho)
            done[b] += inner.change(
                done[b], y[b], ridge, torch.where(settled, tolerance, math.inf), self.effort
            )
            if settled.all():
                continue
            corner = self._part(b, *(beyond.any(dim=d).nonzero()[:, 0] for d in (1, 0)))
            rows, cols = ((m != 0).any(dim=0).nonzero()[:, 0] for m in (corner.rows, corner.cols))
            corner = self._part(b, rows, cols)
            pinned = ~free.pixels[b, 0][rows[:, None], cols]
            ridge = _pinned_ridge(
                corner.rows[:, rows], corner.cols[:, cols], pinned, self.effort.rho
            )
            done[b] += corner.change(done[b], y[b], ridge, torch.tensor(tolerance), self.effort)
        return done.to(x.dtype)

    def _part(self, b: int, rows: Tensor, cols: Tensor) -> _Part:
        """Return what of tile b's measurements sees the crossings of rows and columns."""
        seen_r = _seen(self.rows.matrix[b], self.rows.exact[b], rows)
        seen_c = _seen(self.cols.matrix[b], self.cols.exact[b], cols)
        places = (seen_r, seen_c)
        return _Part(self.rows.matrix[b][seen_r], self.cols.matrix[b][seen_c], places, (rows, cols))

    def _solved(self, x: Tensor, y: Tensor, free: Tensor, tolerance: float) -> Tensor:
        """Correct on every free pixel, the window's corners included, by conjugate gradients."""
        exact = self.rows.exact[:, None, :, None] & self.cols.exact[:, None, None, :]
        z = least_squares(
            lambda z: torch.where(exact, self.A(torch.where(free, z, 0.0)), 0.0),
            lambda w: torch.where(free, self.adjoint(torch.where(exact, w, 0.0)), 0.0),
            torch.where(exact, y.double() - self.A(x.double()), 0.0),
            tolerance,
            MANY,
        )
        return x + z.to(x.dtype)

    @property
    def effort(self) -> Effort:
        """Return the effort of `finish`: measured on 8 and 16 bit (docs/decisions/operators.md)."""
        rho, iterations = (0.3, 200) if self.threshold >= COARSE else (3.0, 400)
        return Effort(rho=rho / max(self.threshold, NOTHING) ** 2, iterations=iterations)


class _Part(NamedTuple):
    """The measurements that see some crossings of rows and columns, of the whole tile."""

    rows: Tensor
    """(m, H)."""
    cols: Tensor
    """(n, W)."""
    seen: tuple[Tensor, Tensor]
    """Which measurements these are, down and across."""
    pixels: tuple[Tensor, Tensor]
    """Which rows and columns of pixels."""

    def change(self, x: Tensor, y: Tensor, ridge: Ridge, allowed: Tensor, effort: Effort) -> Tensor:
        """Return the least change of a picture x (C, H, W) float64 at these pixels, elsewhere 0."""
        left = y.double()[:, self.seen[0][:, None], self.seen[1]] - self.rows @ x @ self.cols.mT
        found = torch.zeros_like(x)
        found[:, self.pixels[0][:, None], self.pixels[1]] = least_change(
            ridge, left, allowed, effort
        )
        return found


@dataclass(frozen=True, slots=True, eq=False)
class SpectralWeight:
    """A function of A^T A that multiplies pictures of A's range: w * x = V diag(w) V^T x."""

    operator: Separable
    values: Tensor
    """(B, 1, k, k)."""

    def __mul__(self, x: Tensor) -> Tensor:
        return self.operator.filter(x, torch.where(self.operator.spectrum > 0, self.values, 0.0))

    def __sub__(self, other: Tensor) -> SpectralWeight:
        return SpectralWeight(self.operator, self.values - other)


@lru_cache(maxsize=64)
def axis_matrix(
    stencil: Stencil, axis: int, side: int, low: int, high: int
) -> tuple[Tensor, Tensor]:
    """Return `Stencil.matrix` as tensors; a run's tiles share a handful of them."""
    matrix, exact = stencil.matrix(axis, side, low, high)
    return torch.from_numpy(matrix), torch.from_numpy(exact)


_DECOMPOSED: dict[int, tuple[Tensor, tuple[Tensor, Tensor, Tensor]]] = {}


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a matrix once; the cache holds the matrix too, so that its identity stays its own."""
    found = _DECOMPOSED.get(id(matrix))
    if found is None or found[0] is not matrix:
        if len(_DECOMPOSED) >= 64:
            _DECOMPOSED.clear()
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        found = _DECOMPOSED[id(matrix)] = (matrix, (u, s, vt))
    return found[1]


def _sandwich(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """Return left @ x @ right per tile and channel; on a CPU tile by tile, so that no tile depends
    on its batch.
    """
    left = left.to(x.dtype)[:, None]
    right = right.to(x.dtype)[:, None]
    if x.device.type != "cpu":
        return left @ x @ right
    return torch.cat(
        [
            before @ t @ after
            for before, t, after in zip(left[:, None], x[:, None], right[:, None], strict=True)
        ]
    )


def _seen(matrix: Tensor, exact: Tensor, free: Tensor) -> Tensor:
    """Return the exact measurements that see any of the free pixels."""
    return ((matrix[:, free] != 0).any(dim=1) & exact).nonzero()[:, 0]


def _spectral_ridge(rows: Tensor, cols: Tensor, rho: float) -> Ridge:
    """Return the exact z-step for A z = rows z cols^T: nothing is pinned."""
    ur, sr, vr = torch.linalg.svd(rows, full_matrices=False)
    uc, sc, vc = torch.linalg.svd(cols, full_matrices=False)
    s = sr[:, None] * sc
    shrink = rho * s / (1 + rho * s * s)

    def solve(w: Tensor) -> tuple[Tensor, Tensor]:
        found = shrink * (ur.mT @ w @ uc)
        return vr.mT @ found @ vc, ur @ (s * found) @ uc.mT

    return solve


def _pinned_ridge(rows: Tensor, cols: Tensor, pinned: Tensor, rho: float) -> Ridge:
    """Return the exact z-step with z = 0 at pinned (H, W) bool, by multipliers for the pinned
    pixels.

    With M = 1 + rho A^T A: z = M^-1 (rho A^T w - l), and l solves (M^-1)_PP l = (M^-1 rho A^T w)_P.
    """
    loose = _spectral_ridge(rows, cols, rho)
    (_, sr, vr), (_, sc, vc) = (torch.linalg.svd(m, full_matrices=False) for m in (rows, cols))
    s = (sr[:, None] * sc) ** 2
    lost = rho * s / (1 + rho * s)  # M^-1 = 1 - V lost V^T
    i, j = (pinned.any(dim=d).nonzero()[:, 0] for d in (1, 0))
    along_y = torch.einsum("ab,ai,ak->bik", lost, vr[:, i], vr[:, i])
    block = torch.einsum("bik,bj,bl->ijkl", along_y, vc[:, j], vc[:, j])
    these = pinned[i[:, None], j].flatten()
    inverse = torch.eye(int(these.sum()), dtype=block.dtype, device=block.device)
    factor = torch.linalg.cholesky(inverse - block.reshape(len(these), -1)[these][:, these])

    def solve(w: Tensor) -> tuple[Tensor, Tensor]:
        z, _ = loose(w)
        push = torch.zeros_like(z)
        push[..., pinned] = torch.cholesky_solve(z[..., pinned].mT, factor).mT
        z = z - push + vr.mT @ (lost * (vr @ push @ vc.mT)) @ vc
        return z, rows @ z @ cols.mT

    return solve
