"""Analytic-DPM's table for a run: how much noise the network sees at each step, on the run's own
pictures.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from kernels.denoisers.denoiser import Denoiser
from kernels.noise import KeyedNoise
from kernels.sampling.analytic_variance import estimate_eps_power, own_pictures
from kernels.schedule import Schedule
from orchestrator.arrays import Array
from orchestrator.tiling.grid import TileGrid

# Pictures that the estimate is made from: each averages over all its pixels, a few give two digits.
PICTURES = 3
# Seed of the estimate's own noise; any number, the same on every worker.
SEED = 0x5EED


def probe_boxes(grid: TileGrid) -> list[tuple[int, int, int, int]]:
    """Return the windows of a few tiles spread evenly over a level, px."""
    return [grid.box(grid.key(grid.count * (2 * i + 1) // (2 * PICTURES))) for i in range(PICTURES)]


def eps_power(
    denoiser: Denoiser,
    schedule: Schedule,
    pictures: Iterable[Array],
    side: int,
    device: torch.device,
) -> tuple[float, ...]:
    """Return E||eps||^2 / d at every index of the schedule; the same pictures give the same numbers
    on every worker.

    pictures: (C, P, P) float32 in [-1, 1]; without any (nothing is measured) the network invents
    one of side px.
    """
    noise = KeyedNoise(SEED)
    measured = [torch.from_numpy(np.ascontiguousarray(picture)) for picture in pictures]
    if measured:
        images = torch.stack(measured).to(device)
    else:
        images = own_pictures(
            denoiser, noise, (denoiser.info.channels, side, side), 1, device=device
        )
    return tuple(
        float(p) for p in estimate_eps_power(denoiser, schedule, images.clamp(-1, 1), noise)
    )
