"""What a step asks the network: the clean estimate of a batch of tiles, without a derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from kernels.denoisers.denoiser import Denoiser, evaluate
from kernels.sampling.constraints import Problem, select
from kernels.sampling.step_coefficients import Step


class Query(NamedTuple):
    """Hold what the estimates of a batch of tiles follow from."""

    problem: Problem
    step: Step
    x: Tensor
    """x_t of every tile, (B, C, H, W) float32."""
    timesteps: Tensor
    """Base timesteps, (B,) int64."""
    shift: Tensor | None
    """Added to eps before anything else (classifier guidance), (B, C, H, W)."""
    clip: bool
    """Whether clean estimates are kept within what the problem allows."""

    def select(self, rows: Sequence[int]) -> Query:
        """Return what some tiles of the batch ask, in that order."""
        places = list(rows)
        return Query(
            select(self.problem, places),
            self.step.select(places),
            self.x[places],
            self.timesteps[places],
            None if self.shift is None else self.shift[places],
            self.clip,
        )

    def answered(self, eps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return eps, shifted, and the clean estimate at x, each (B, C, H, W).

        x: `self.x`, or what a derivative is taken by in its place.
        """
        if self.shift is not None:
            eps = eps + self.shift
        x0 = self.step.x0_x * x - self.step.x0_eps * eps
        return eps, self.problem.within(x0) if self.clip else x0


def clean_estimate(denoiser: Denoiser, query: Query) -> tuple[Tensor, Tensor]:
    """Return eps and the clean estimate, each (B, C, H, W)."""
    return query.answered(evaluate(denoiser, query.x, query.timesteps), query.x)
