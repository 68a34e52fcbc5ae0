"""The least change that brings every measurement within a tolerance, keeping the pinned pixels.

A stored measurement is rounded, so that even the true picture leaves residuals of up to half a grey
level. Demanding less from a blur, whose small singular values amplify, would fill the picture with
noise: conjugate gradients on a blur of 9 x 9 px from 8 bit take 12 dB. The projection on {x: |A x -
y| <= tolerance} takes a few tenths, or gains.

    z = argmin |z|^2  subject to  |r - B z| <= tolerance,    r = y - A x, B = A on the free pixels

by the alternating direction method of multipliers (Boyd et al. 2011, section 3.1, over-relaxed as
in 3.4.3) with the splitting v = B z. The z-step is exact where the singular values of B are known,
else conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RELAXATION = 1.7
# Iterations between two looks at the residual, the only point where the device is waited for.
CHECK_EVERY = 5
# Conjugate gradients have converged when |A^T r|^2 has fallen to this share. Beyond it float64's
# rounding takes over, and what cannot hold within the tolerance drifts away from its best: from
# 1.008 to 13 tolerances in 1000 steps (bicubic, 16 bit).
CONVERGED = 1e-20
# What rounding leaves of |A^T r|^2 at least, as a share of |r|^2, for operators whose norm is about
# 1: there is no way below.
ROUNDING = 1e-28
# Keeps a vanished residual from dividing.
TINY = 1e-300

Ridge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""w -> (z, B z), where z minimises |z|^2 + rho |B z - w|^2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Say how hard the projection tries."""

    rho: float
    """Weight of the measurement against the change: singular values above 1/sqrt(rho) are used
    freely.
    """
    iterations: int = 200
    slack: float = 0.05
    """Stop when the residual exceeds the tolerance by this share of it at most."""


def least_change(
    ridge: Ridge,
    residual: Tensor,
    tolerance: Tensor,
    effort: Effort,
) -> Tensor:
    """Return z for the residual r and its tolerance, which broadcasts to it and may be infinite.

    Where the tolerance cannot be reached in time, z is the best one so far.
    """
    if not residual.numel() or _excess(residual, tolerance)[0] <= 0:
        z, _ = ridge(residual)
        return torch.zeros_like(z)

    low = residual - tolerance
    high = residual + tolerance
    allowed = effort.slack * float(tolerance.min())
    v = torch.zeros_like(residual).clamp(low, high)
    u = torch.zeros_like(residual)
    z, bz = ridge(v)
    best = torch.zeros_like(z)
    _, least = _excess(residual, tolerance)
    for i in range(effort.iterations + 1):
        if i % CHECK_EVERY == 0:
            worst, size = _excess(residual - bz, tolerance)
            if size < least:
                best = z
                least = size
            if worst <= allowed:
                return z

        mixed = RELAXATION * bz + (1 - RELAXATION) * v
        v = (mixed + u).clamp(low, high)
        u = u + mixed - v
        z, bz = ridge(v - u)
    return best


def _excess(residual: Tensor, tolerance: Tensor) -> tuple[float, float]:
    """Return by how much the residual exceeds the tolerance at most, and the sum of squares of the
    excess.
    """
    beyond = (residual.abs() - tolerance).clamp(min=0.0)
    return float(beyond.max()), float(beyond.square().sum())


def ridge_by_gradients(
    A: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    rho: float,
    iterations: int = 12,
) -> Ridge:
    """Return the z-step by conjugate gradients on (1 + rho A^T A) z = rho A^T w, begun at the last
    answer.

    inverse: about (1 + rho A^T A)^-1, symmetric and positive.
    """
    last: list[Tensor] = []

    def solve(w: Tensor) -> tuple[Tensor, Tensor]:
        b = rho * adjoint(w)
        z = last[0] if last else torch.zeros_like(b)
        r = b - z - rho * adjoint(A(z))
        h = inverse(r)
        p = h
        size = (r * h).sum()
        for _ in range(iterations):
            q = p + rho * adjoint(A(p))
            curvature = (p * q).sum()
            step = size / curvature.clamp(min=TINY)
            z = z + step * p
            r = r - step * q

            h = inverse(r)
            after = (r * h).sum()
            growth = after / size.clamp(min=TINY)
            p = h + growth * p
            size = after
        last[:] = [z]
        return z, A(z)

    return solve


def least_squares(
    A: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    residual: Tensor,
    tolerance: float,
    iterations: int,
) -> Tensor:
    """Return the least z with |r - A z| <= tolerance by conjugate gradients (CGLS), each tile by
    its own steps.

    For operators whose measurements can all hold exactly: no noise is amplified on the way. Where
    pinned pixels leave some of them out of reach, z is the least-squares solution.
    """
    r = residual
    s = adjoint(residual)
    z = torch.zeros_like(s)
    p = s
    size = _squared(s)
    enough = torch.maximum(CONVERGED * size, ROUNDING * _squared(residual))
    for i in range(iterations):
        if i % CHECK_EVERY == 0:
            holds = float(r.abs().max()) <= tolerance
            if holds or bool((size <= enough).all()):
                break

        q = A(p)
        step = size / _squared(q).clamp(min=TINY)
        z = z + step * p
        r = r - step * q

        s = adjoint(r)
        after = _squared(s)
        growth = after / size.clamp(min=TINY)
        p = s + growth * p
        size = after
    return z


def _squared(x: Tensor) -> Tensor:
    return x.square().sum(dim=(-3, -2, -1), keepdim=True)
