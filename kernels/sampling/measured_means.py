"""Give a restored picture the local means that were measured.

A network's estimate is a little off in its mean, by up to a hundredth of [-1, 1] where there is
much noise (dark areas a little too dark, bright ones too bright). On a scale on which noise is even
the means of the measurement itself have no bias: averaged over enough pixels their noise is small
against what the network leaves, and its error goes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.sampling.constraints import Measurement

REACH = 16.0
"""Standard deviation of the Gaussian that averages, px: of white noise 1 / 57 is left."""
LARGEST_SHARE = 1 / 8
"""Largest standard deviation as a share of the picture's side."""


def with_measured_means(pictures: Tensor, measurement: Measurement) -> Tensor:
    """Return pictures (B, C, H, W) to which the averages of y - A x around each pixel are added.

    The measurement has the pictures' pixels, and a band or as many as there are channels. A row's
    result does not depend on the others'.
    """
    means = []
    for x, y in zip(pictures, measurement.y.to(pictures.device), strict=True):
        residual = y - measurement.operator.A(x[None])[0]
        means.append(x + low_pass(residual))
    return torch.stack(means)


def low_pass(bands: Tensor) -> Tensor:
    """Return the averages around each pixel of (C, H, W), at a border of what lies inside."""
    rows = _weights(bands.shape[1]).to(bands.device)
    columns = _weights(bands.shape[2]).to(bands.device)
    smooth = rows @ bands.to(torch.float64) @ columns.T
    return smooth.to(bands.dtype)


def _weights(side: int) -> Tensor:
    """Return the weights (side, side) of the pixels of a line for the average around each."""
    reach = min(REACH, side * LARGEST_SHARE)
    places = torch.arange(side, dtype=torch.float64)
    distances = (places[:, None] - places[None]) / (math.sqrt(2) * reach)
    bells = torch.exp(-distances.square())
    return bells / bells.sum(dim=1, keepdim=True)
