"""Estimate how much noise a denoiser sees, E||eps||^2 / d at every step, for Analytic-DPM's optimal reverse variance.

For a perfect denoiser the optimal variance of p(x_{t-1} | x_t) depends on the data through this number alone
(Bao et al. 2022, "Analytic-DPM", Theorem 1, with eps = -s score): 1 where x_t leaves no doubt about x_0, and the less,
the more of the noise could as well be picture. It is estimated once per denoiser and schedule, from a few pictures of
the kind to be restored, or from the denoiser's own samples; `SamplerConfig.eps_power` takes it.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from kernels.constraints import Problem
from kernels.denoiser import Denoiser, evaluate
from kernels.noise import NoiseSource
from kernels.process import SamplerConfig
from kernels.sampler import sample
from kernels.schedule import Float64, Schedule, time_travel


@torch.no_grad()
def estimate_eps_power(denoiser: Denoiser, schedule: Schedule, images: Tensor, noise: NoiseSource) -> Float64:
    """Return E||eps||^2 / d, (T,) float64, over images noised to every level.

    images: (N, C, H, W) in [-1, 1]; N of about 10 tiles suffice, as each averages over all its pixels. Image i draws
    its noise under the key (0, i, 0), one draw per level.
    """
    keys, shape = [(0, i, 0) for i in range(len(images))], tuple(images.shape[1:])
    power = np.empty(len(schedule))
    for t, timestep in enumerate(schedule.timesteps):
        z = noise.draw(keys, [t] * len(images), (shape[0], shape[1], shape[2]), images.device)
        alpha_bar = float(schedule.alpha_bar[t])
        x = alpha_bar**0.5 * images + (1.0 - alpha_bar) ** 0.5 * z
        eps = evaluate(denoiser, x.float(), torch.full((len(images),), int(timestep), device=images.device))
        power[t] = float(eps.double().square().mean())
    return power


def sampled_eps_power(
    denoiser: Denoiser,
    schedule: Schedule,
    noise: NoiseSource,
    shape: tuple[int, int, int],
    count: int,
    device: torch.device | str = "cpu",
) -> Float64:
    """Return E||eps||^2 / d, (T,) float64, along the denoiser's own DDPM trajectories: no pictures are needed.

    count: tiles of shape (C, H, W), drawn under the keys (0, i, 0).
    """
    meter = _Meter(denoiser, schedule)
    config = SamplerConfig(schedule=schedule, times=tuple(time_travel(len(schedule))))
    sample(meter, Problem(), config, noise, [(0, i, 0) for i in range(count)], shape, device=device)
    return meter.total / count


class _Meter:
    """Pass a denoiser's answers on and add up their mean squares by index of the schedule."""

    def __init__(self, denoiser: Denoiser, schedule: Schedule) -> None:
        self.denoiser = denoiser
        self.info = denoiser.info
        self.total = np.zeros(len(schedule))
        self._index = {int(timestep): t for t, timestep in enumerate(schedule.timesteps)}

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        eps = self.denoiser(x_t, t)
        squares = eps.double().square().mean(dim=(1, 2, 3))
        for timestep, square in zip(t.tolist(), squares.tolist(), strict=True):
            self.total[self._index[timestep]] += square
        return eps

    def to(self, device: torch.device | str) -> Self:
        self.denoiser = self.denoiser.to(device)
        return self
