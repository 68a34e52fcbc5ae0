"""Estimate how much noise a denoiser sees, E||eps||^2 / d at every step, for Analytic-DPM's optimal
reverse variance.

For a perfect denoiser the optimal variance of p(x_{t-1} | x_t) depends on the data through this
number alone (Bao et al. 2022, "Analytic-DPM", Theorem 1, with eps = -s score): 1 where x_t leaves
no doubt about x_0, and the less, the more of the noise could as well be picture. It is estimated
once per denoiser and schedule, from a few pictures of the kind to be restored, or from its own;
`SamplerConfig.eps_power` takes it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kernels.denoisers.denoiser import Denoiser, evaluate
from kernels.noise import NoiseSource
from kernels.sampling.constraints import Problem
from kernels.sampling.sampler import sample
from kernels.sampling.step_coefficients import SamplerConfig
from kernels.schedule import Float64, Schedule, base_alpha_bar, log_sigma_timesteps, time_travel


@torch.no_grad()
def estimate_eps_power(
    denoiser: Denoiser,
    schedule: Schedule,
    images: Tensor,
    noise: NoiseSource,
) -> Float64:
    """Return E||eps||^2 / d, (T,) float64, over images noised to every level.

    images: (N, C, H, W) in [-1, 1]; N of about 10 tiles suffice, as each averages over all its
    pixels. Image i draws its noise under the key (0, i, 0), one draw per level.
    """
    count, channels, height, width = images.shape
    keys = [(0, i, 0) for i in range(count)]
    power = np.empty(len(schedule))
    for t, timestep in enumerate(schedule.timesteps):
        z = noise.draw(keys, [t] * count, (channels, height, width), images.device)
        alpha_bar = float(schedule.alpha_bar[t])
        x = alpha_bar**0.5 * images + (1.0 - alpha_bar) ** 0.5 * z
        timesteps = torch.full((count,), int(timestep), device=images.device)
        eps = evaluate(denoiser, x.float(), timesteps)
        power[t] = float(eps.double().square().mean())
    return power


def own_pictures(
    denoiser: Denoiser,
    noise: NoiseSource,
    shape: tuple[int, int, int],
    count: int,
    steps: int = 200,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return pictures that the denoiser invents, (count, *shape) float32, for `estimate_eps_power`
    in want of any.

    Drawn by DDPM under the keys (0, i, 1). It takes many steps: with 8, pictures are so smooth that
    the power comes out at half its value.
    """
    alpha_bar = base_alpha_bar(denoiser.info.alpha_bar, denoiser.info.n_timesteps)
    timesteps = log_sigma_timesteps(alpha_bar, len(alpha_bar) - 1, steps)
    schedule = Schedule.from_timesteps(alpha_bar, timesteps)
    times = tuple(time_travel(len(schedule)))
    config = SamplerConfig(schedule=schedule, times=times)
    keys = [(0, i, 1) for i in range(count)]
    return sample(denoiser, Problem(), config, noise, keys, shape, device=device)
