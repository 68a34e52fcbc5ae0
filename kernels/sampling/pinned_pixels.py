"""Pins that pull: what earlier tiles have restored moves the rest of a tile through the network.

Where pinned pixels only replace those of the clean estimate, the free pixels beside them learn of
them one step late, and where nothing is measured the tile draws a picture of its own: a square to
be seen. Here the estimate is conditioned on the pins first,

    x0' = x0 + (a^2 v + s^2) / (a v) J^T M (pinned - x0),    J = d x0 / d x_t,

which is the clean estimate that the score of the pins implies (Song et al. 2023, PiGDM, Eq. 7, with
r_t^2 = v s^2 / (a^2 v + s^2)), exact where the prior is white with variance v. eps' belongs to it:
x_t = a x0' + s eps'. Guide, measurement and pins are then projected as ever, by whatever method.
"""

from __future__ import annotations

# Variance of the prior behind the weight, in the unit of [-1, 1].
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.denoisers.denoiser import Denoiser
from kernels.sampling.clean_estimate import Query, clean_estimate
from kernels.sampling.constraints import Problem
from kernels.sampling.gradient_methods import Pull, evaluate_with_gradient
from kernels.sampling.step_coefficients import Step

VARIANCE = 1.0


class PinPull:
    """Draw J^T M (pinned - x0) from the network's derivative."""

    def push(self, x0: Tensor, pull: Pull, problem: Problem, step: Step) -> Tensor:
        """Return what the pins pull the estimate by, (B, C, H, W)."""
        assert problem.known is not None, "only tiles with pins are pulled"
        return pull(problem.known.project(x0) - x0)


def has_pins(problem: Problem, tiles: int) -> tuple[bool, ...]:
    """Return which tiles of a batch have a pinned pixel; on the host, once a tile."""
    if problem.known is None:
        return (False,) * tiles
    return tuple(problem.known.mask.flatten(1).any(1).tolist())


def estimate_with_pins(
    denoiser: Denoiser, query: Query, pulled: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Return eps and the clean estimate (B, C, H, W) of a batch.

    pulled: which tiles are conditioned on their pins.
    """
    eps = torch.empty_like(query.x)
    x0 = torch.empty_like(query.x)
    for is_pulled, estimate in ((False, clean_estimate), (True, _conditioned)):
        rows = [tile for tile, one in enumerate(pulled) if one == is_pulled]
        if rows:
            eps[rows], x0[rows] = estimate(denoiser, query.select(rows))
    return eps, x0


def _conditioned(denoiser: Denoiser, query: Query) -> tuple[Tensor, Tensor]:
    """Return eps' and x0' of tiles with pins."""
    _, x0, push = evaluate_with_gradient(denoiser, PinPull(), query)
    step = query.step
    gain = (step.a**2 * VARIANCE + step.s**2) / (step.a * VARIANCE)
    conditioned = x0 + gain * push
    if query.clip:
        conditioned = query.problem.within(conditioned)
    eps = (query.x - step.a * conditioned) / step.s
    return eps, conditioned
