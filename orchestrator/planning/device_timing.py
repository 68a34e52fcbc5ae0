"""Measure what a network evaluation costs on this machine, for forecasts. Loads torch."""

from __future__ import annotations

import time

import torch

from kernels.denoisers.denoiser import evaluate, load_denoiser
from orchestrator.job.plan import Plan
from orchestrator.scheduling.simulator import Device

# Two batch sizes determine a line; the best of so many tries is the time without disturbance.
SMALL = 1
LARGE = 4
TRIES = 3


def measure_device(plan: Plan) -> Device:
    """Time the plan's denoiser on the device that a worker here would use, as a line through two
    batch sizes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # as a worker does
    denoiser = load_denoiser(plan.spec.denoiser, device)
    shape = (plan.denoiser.channels, plan.tile, plan.tile)

    def seconds(batch: int) -> float:
        x = torch.zeros((batch, *shape), device=device)
        timesteps = torch.full((batch,), plan.denoiser.n_timesteps // 2, device=device)
        best = float("inf")
        with torch.inference_mode():
            for _ in range(1 + TRIES):  # the first one is slower
                began = time.perf_counter()
                evaluate(denoiser, x, timesteps)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                best = min(best, time.perf_counter() - began)
        return best

    small = seconds(SMALL)
    large = seconds(LARGE)
    per_tile = max((large - small) / (LARGE - SMALL), 0.0)
    return Device(per_call=max(small - SMALL * per_tile, 0.0), per_tile=per_tile)
