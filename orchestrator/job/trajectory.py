"""From a resolved sampling specification to the sampler's schedule and visited timesteps. numpy
only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.denoiser_info import DenoiserInfo
from kernels.presets import EVALUATIONS, PREDICTION_ENSEMBLE
from kernels.schedule import (
    Schedule,
    base_alpha_bar,
    log_sigma_timesteps,
    respaced_timesteps,
    time_travel,
)
from orchestrator.job.plan import Level, Plan
from orchestrator.job.spec import SamplingSpec


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What one tile of a level goes through."""

    schedule: Schedule
    times: tuple[int, ...]
    """Visited respaced indices, -1 last."""
    warm: bool
    """True when it starts from a picture instead of pure noise (a deviation from Algorithm 1,
    CCDF).
    """
    evaluations: int = 1
    """Of the network per step: more than one where it is averaged over symmetries."""
    predicted: bool = False
    """Whether a network predicts the picture of the warm start."""

    @property
    def nfe(self) -> int:
        """Network evaluations per tile."""
        steps = sum(later < now for now, later in zip(self.times, self.times[1:], strict=False))
        return self.evaluations * steps + (
            EVALUATIONS[PREDICTION_ENSEMBLE] if self.predicted else 0
        )


def trajectory(plan: Plan, level: Level) -> Trajectory:
    """Return the trajectory of a level's tiles."""
    return build_trajectory(
        plan.spec.sampling, plan.denoiser, guided=level.guided, denoising_sigma=_sigma(plan, level)
    )


def build_trajectory(
    sampling: SamplingSpec, denoiser: DenoiserInfo, *, guided: bool, denoising_sigma: float | None
) -> Trajectory:
    """Build the visited timesteps; a pure denoising task starts where its own noise is
    the state's.
    """
    assert sampling.steps is not None and sampling.travel is not None, (
        "resolve() fills the sampling"
    )
    alpha_bar = base_alpha_bar(denoiser.alpha_bar, denoiser.n_timesteps)
    start = (
        sampling.guided_start if guided and sampling.guided_start is not None else sampling.start
    )
    if denoising_sigma is not None and sampling.init != "none":
        sigmas = np.sqrt((1 - alpha_bar) / alpha_bar)
        # The measurement itself is x_t / a_t at the timestep with this noise level.
        start = int(np.clip(np.searchsorted(sigmas, denoising_sigma), 1, len(alpha_bar) - 1))
    steps = (
        sampling.guided_steps if guided and sampling.guided_steps is not None else sampling.steps
    )
    warm = start is not None and start < denoiser.n_timesteps - 1 and sampling.init != "none"
    if sampling.spacing == "log_sigma":
        first = len(alpha_bar) - 1 if start is None else start
        timesteps = log_sigma_timesteps(alpha_bar, first, steps)
    else:
        timesteps = respaced_timesteps(len(alpha_bar), steps, start)
    schedule = Schedule.from_timesteps(alpha_bar, timesteps)
    times = tuple(time_travel(len(timesteps), *sampling.travel))
    return Trajectory(
        schedule,
        times,
        warm,
        EVALUATIONS[sampling.ensemble or "1"],
        sampling.init == "predicted" and warm,
    )


def _sigma(plan: Plan, level: Level) -> float | None:
    return level.sigma_y if plan.task.starts_at_its_noise else None
