"""Measure how well a prior knows a picture: noise it strongly, denoise it, and see how much of the
picture is lost.

The residual is the root mean square of D(x + sigma n) - x in units of sigma. With noise of a
quarter of full scale it is 0.1 to 0.3 for photographs, slides and drawn scenes alike (what remains
is the noise that edges hide), and 0.5 to 1 for pictures whose pixels say nothing about their
neighbours: there a prior can only replace what it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.denoiser_info import split_ref
from kernels.denoisers.builtin import (
    BuiltinDenoiser,
    estimate_x0,
    load_builtin,
    load_prior,
    network_output,
)
from kernels.denoisers.prior_metadata import DomainStatistics
from kernels.noise import KeyedNoise

# Noise level of the measurement, [-1, 1] range: where known and unknown pictures lay farthest apart
# of 0.1, 0.25, 0.5.
SIGMA = 0.5
# Side of the windows, px. The window's border costs a known picture little at this size.
SIDE = 64
# Seed of the measurement's noise; any number, the same everywhere.
SEED = 0xD0A1


@torch.no_grad()
def residual(denoiser: BuiltinDenoiser, windows: Sequence[Tensor]) -> float:
    """Return the residual over windows (C, SIDE, SIDE) float32 in [-1, 1]: a function of the pixels
    alone.
    """
    noise = KeyedNoise(SEED)
    squares = []
    for i, x in enumerate(windows):
        x0 = x[None].to(denoiser.device)
        channels, height, width = x.shape
        key = (0, 0, i)
        n = noise.draw([key], [0], (channels, height, width), denoiser.device)
        z = x0 + SIGMA * n
        sigma = torch.full((1,), SIGMA, device=denoiser.device)
        output = network_output(denoiser.net, z, sigma, denoiser.dtype)
        estimate = estimate_x0(output, z, sigma).clamp(-1, 1)
        squares.append(float((estimate - x0).square().mean()))
    deviation = float(np.sqrt(np.mean(squares)))
    return deviation / SIGMA


def statistics(denoiser: BuiltinDenoiser, pictures: Tensor) -> DomainStatistics:
    """Return the statistics of held-out pictures (N, C, H, W) in [-1, 1], sides at least SIDE."""
    residuals = [residual(denoiser, corners(picture)) for picture in pictures]
    return DomainStatistics.of(residuals, SIGMA)


def corners(picture: Tensor) -> list[Tensor]:
    """Return the windows at the four corners of a picture (C, H, W)."""
    ends = (slice(SIDE), slice(-SIDE, None))
    return [picture[:, y, x] for y in ends for x in ends]


def residual_of(ref: str, windows: Sequence[NDArray[np.float32]]) -> float:
    """Return the residual of the prior that a denoiser's reference names; on the CPU, in one
    thread.
    """
    scheme, path = split_ref(ref)
    tensors = [torch.from_numpy(np.ascontiguousarray(window)) for window in windows]
    threads = torch.get_num_threads()
    # Another number may round differently, and the figure goes into the output.
    torch.set_num_threads(1)
    try:
        denoiser = load_builtin() if scheme == "builtin" else load_prior(path)
        return residual(denoiser, tensors)
    finally:
        torch.set_num_threads(threads)
