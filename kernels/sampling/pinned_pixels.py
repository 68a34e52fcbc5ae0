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

from kernels.denoisers.denoiser import Denoiser, evaluate
from kernels.sampling.constraints import Problem, select
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
    denoiser: Denoiser,
    problem: Problem,
    step: Step,
    x: Tensor,
    timesteps: Tensor,
    shift: Tensor | None,
    clip: bool,
    pulled: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """Return eps and the clean estimate (B, C, H, W) of a batch; pulled: which tiles are
    conditioned on their pins.

    shift: added to eps before anything else (classifier guidance).
    """
    eps = torch.empty_like(x)
    x0 = torch.empty_like(x)
    free = [i for i, is_pulled in enumerate(pulled) if not is_pulled]
    if free:
        eps[free], x0[free] = _estimate(
            denoiser,
            select(problem, free),
            step.select(free),
            x[free],
            timesteps[free],
            _rows(shift, free),
            clip,
        )
    held = [i for i, is_pulled in enumerate(pulled) if is_pulled]
    if held:
        eps[held], x0[held] = _pulled(
            denoiser,
            select(problem, held),
            step.select(held),
            x[held],
            timesteps[held],
            _rows(shift, held),
            clip,
        )
    return eps, x0


def _rows(shift: Tensor | None, rows: Sequence[int]) -> Tensor | None:
    return None if shift is None else shift[list(rows)]


def _estimate(
    denoiser: Denoiser,
    problem: Problem,
    step: Step,
    x: Tensor,
    timesteps: Tensor,
    shift: Tensor | None,
    clip: bool,
) -> tuple[Tensor, Tensor]:
    """Return eps and the clean estimate without a derivative."""
    eps = evaluate(denoiser, x, timesteps)
    if shift is not None:
        eps = eps + shift
    x0 = step.x0_x * x - step.x0_eps * eps
    return eps, problem.within(x0) if clip else x0


def _pulled(
    denoiser: Denoiser,
    problem: Problem,
    step: Step,
    x: Tensor,
    timesteps: Tensor,
    shift: Tensor | None,
    clip: bool,
) -> tuple[Tensor, Tensor]:
    """Return eps' and x0' of tiles with pins."""
    _, x0, push = evaluate_with_gradient(
        denoiser, PinPull(), problem, step, x, timesteps, shift, clip
    )
    gain = (step.a**2 * VARIANCE + step.s**2) / (step.a * VARIANCE)
    conditioned = x0 + gain * push
    if clip:
        conditioned = problem.within(conditioned)
    eps = (x - step.a * conditioned) / step.s
    return eps, conditioned
