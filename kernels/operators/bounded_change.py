"""The least change that brings measurements within a tolerance and pixels within black and white.

    z = argmin |z|^2  subject to  |r - B z| <= tolerance  and  low <= z <= high

by the alternating direction method of multipliers (Boyd et al. 2011, section 3.1) with the
splittings v = B z and w = z. The z-step is that of `tolerance_projection.least_change`: with
c = mu / (1 + mu) (w - q) it is c plus the ridge's answer for what c leaves of the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.operators.tolerance_projection import (
    CHECK_EVERY,
    RELAXATION,
    Effort,
    Ridge,
    least_squares,
)

# Weight of black and white against the change, in the unit of the change's own.
BOX_WEIGHT = 200.0
# Levels that A x may stay from y beside black and white, at most.
LOOSEST = 0.3
# Rounds of least squares after the splitting, and conjugate gradient steps of each.
POLISHING_ROUNDS = 8
POLISHING_STEPS = 40
# Samples this far beyond black and white are within: float32's rounding of [-1, 1].
ROUNDING = 2.0**-22


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Say what pixels can be stored, and which measurements were cut off; unit of [-1, 1].

    Numbers, or (B, C, 1, 1) where channels have black and white of their own.
    """

    low: float | Tensor
    high: float | Tensor
    y_low: float | Tensor
    """A measurement of this or less says only that A x was no more: storing it cut the rest off."""
    y_high: float | Tensor
    level: float
    """A grey level."""

    def of_tile(self, i: int) -> Limits:
        """Return those of one tile of the batch, (C, 1, 1)."""

        def row(end: float | Tensor) -> float | Tensor:
            return end[i] if isinstance(end, Tensor) else end

        return Limits(row(self.low), row(self.high), row(self.y_low), row(self.y_high), self.level)

    def touched(self, x: Tensor, free: Tensor) -> bool:
        """Tell whether some free pixel cannot be stored."""
        beyond = (x < self.low - ROUNDING) | (x > self.high + ROUNDING)
        return bool((beyond & free).any())

    def loosened(self, tolerance: float) -> float:
        """Return the tolerance beside black and white: twice the other one, to LOOSEST levels.

        Where pixels have less room, asking for as little as elsewhere would cost more noise than
        it is worth, and the measurement's own rounding can put it out of reach.
        """
        loosest = LOOSEST * self.level
        return max(min(2 * tolerance, loosest), tolerance)

    def tolerances(self, y: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far A x may lie below y, and how far above; infinite where y was cut off."""
        wide = tolerance.expand_as(y)
        below = torch.where(y <= self.y_low, torch.inf, wide)
        above = torch.where(y >= self.y_high, torch.inf, wide)
        return below, above


@dataclass(frozen=True, slots=True, eq=False)
class BoundedProblem:
    """Measurements of a change z, and how large z may be. Shapes (C, h, w) and (C, H, W)."""

    ridge: Ridge
    """Of B, with a weight of its own for the measurement."""
    measure: Callable[[Tensor], Tensor]
    """B."""
    adjoint: Callable[[Tensor], Tensor]
    """B^T."""
    least: Tensor
    """Of B z."""
    most: Tensor
    bounds: tuple[Tensor, Tensor]
    """Least and largest z."""
    slack: float
    """By how much B z may be out of its interval at the end."""

    def within(self, z: Tensor) -> Tensor:
        """Return z cut off at its bounds."""
        return z.clamp(*self.bounds)

    def missing(self, z: Tensor) -> Tensor:
        """Return by how much B z misses its interval, with the sign of what it lacks."""
        measured = self.measure(z)
        return (self.least - measured).clamp(min=0.0) - (measured - self.most).clamp(min=0.0)

    def splitting(self, iterations: int) -> Tensor:
        """Return z within its bounds after so many steps of the splitting, or when B z holds."""
        share = BOX_WEIGHT / (1 + BOX_WEIGHT)
        w = self.within(torch.zeros_like(self.bounds[0]))
        q = torch.zeros_like(w)
        v = torch.zeros_like(self.least).clamp(self.least, self.most)
        u = torch.zeros_like(v)
        best = w
        smallest = float(self.missing(w).square().sum())
        for i in range(iterations + 1):
            c = share * (w - q)
            bc = self.measure(c)
            more, b_more = self.ridge(v - u - bc)
            z = c + more
            bz = bc + b_more
            if i % CHECK_EVERY == 0:
                candidate = self.within(z)
                missing = self.missing(candidate)
                size = float(missing.square().sum())
                if size < smallest:
                    best = candidate
                    smallest = size
                if float(missing.abs().max()) <= self.slack:
                    return candidate

            mixed = RELAXATION * bz + (1 - RELAXATION) * v
            v = (mixed + u).clamp(self.least, self.most)
            u = u + mixed - v
            mixed = RELAXATION * z + (1 - RELAXATION) * w
            w = self.within(mixed + q)
            q = q + mixed - w
        return best

    def polished(self, z: Tensor) -> Tensor:
        """Return z with what is still missing spread over the pixels that no bound keeps from it.

        Each round is a least-squares solution cut off at the bounds; pixels that reach them are out
        of the next one.
        """
        best = z
        smallest = float(self.missing(z).square().sum())
        for _ in range(POLISHING_ROUNDS):
            missing = self.missing(z)
            if float(missing.abs().max()) <= self.slack:
                break
            pull = self.adjoint(missing)
            least, most = self.bounds
            movable = ((z > least) | (pull > 0)) & ((z < most) | (pull < 0))
            change = least_squares(
                lambda d: self.measure(torch.where(movable, d, 0.0)),  # noqa: B023
                lambda r: torch.where(movable, self.adjoint(r), 0.0),  # noqa: B023
                missing,
                self.slack / 2,
                POLISHING_STEPS,
            )
            z = self.within(z + change)
            size = float(self.missing(z).square().sum())
            if size < smallest:
                best = z
                smallest = size
        return best


def least_change_within(
    ridge: Ridge,
    maps: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
    residual: Tensor,
    tolerances: tuple[Tensor, Tensor],
    bounds: tuple[Tensor, Tensor],
    effort: Effort,
) -> Tensor:
    """Return z within its bounds, with r - B z within the tolerances as nearly as it can be.

    maps: B and its adjoint. tolerances: how far B z may be below r, and above. bounds: least and
    largest z. Where both cannot hold in time, z is the best so far, within its bounds.
    """
    if not residual.numel():
        return torch.zeros_like(bounds[0]).clamp(*bounds)
    below, above = tolerances
    finite = torch.minimum(below, above)
    slack = effort.slack * float(finite.min())
    problem = BoundedProblem(
        ridge=ridge,
        measure=maps[0],
        adjoint=maps[1],
        least=residual - below,
        most=residual + above,
        bounds=bounds,
        slack=slack if slack < torch.inf else 0.0,
    )
    return problem.polished(problem.splitting(effort.iterations))
