"""Operators by what they do to a picture, for `sample`: A of pictures (B, C, H, W) in [-1, 1].

Each has `A`, `pinv`, `project` and `scale` (`kernels.operators.linear_operator.Operator`). One that
was made for one picture serves every picture of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.operators import compose as compositions
from kernels.operators import elementary
from kernels.operators.axis_operator import AxisOperator, axis_matrix
from kernels.operators.convolution import Convolution
from kernels.operators.hadamard import drawn
from kernels.operators.linear_operator import Operator
from kernels.operators.separable import Separable
from kernels.operators.stencil import Stencil, from_weights
from kernels.operators.stencil import bicubic as bicubic_stencil
from orchestrator.job.fields.blur import read_blur
from orchestrator.job.fields.tolerance import threshold

# Singular values that pixels of this dtype can still be seen through are inverted, the others are
# the network's.
_DTYPE = "uint8"


def identity() -> Operator:
    """Measure the picture itself: with sigma above 0, denoising."""
    return elementary.Identity()


def average_pool(scale: int) -> Operator:
    """Average cells of scale x scale px: super-resolution."""
    return elementary.AveragePool(scale)


def grey(channels: int = 3) -> Operator:
    """Average the channels: colorization; y has one channel."""
    return elementary.Grey(channels)


def mask(known: Tensor | NDArray[Any]) -> Operator:
    """Keep the known pixels: inpainting. known: (H, W), (1, 1, H, W) or (B, 1, H, W), true where
    known.
    """
    return elementary.Mask(_mask(known))


def masked_pool(scale: int, known: Tensor | NDArray[Any]) -> Operator:
    """Average cells over their known pixels; known as for `mask`, in px of the picture."""
    return elementary.MaskedPool(scale, _mask(known))


def hadamard(ratio: float, *, block: int = 32, seed: int = 0) -> Operator:
    """Keep a share of the Hadamard coefficients of every block: compressed sensing."""
    return drawn(block, ratio, seed)


def bicubic(scale: int, size: tuple[int, int], count: int = 1) -> Operator:
    """Decimate by the antialiased bicubic; size: (H, W) of the picture, px; count: pictures that
    its `A` takes at a time.
    """
    return _stencilled(bicubic_stencil(scale), size, count)


def blur(kernel: str | NDArray[Any], size: tuple[int, int], count: int = 1) -> Operator:
    """Blur; kernel: "gaussian:2", "uniform:9", "anisotropic:4,1", a file, or an array of odd sides
    that sums to 1. size, count: as for `bicubic`.

    Measurements whose support leaves the picture are 0 and constrain nothing.
    """
    if isinstance(kernel, str):
        stencil = read_blur(kernel)
    else:
        stencil = from_weights(np.asarray(kernel, dtype=np.float64), normalise=False)
    return _stencilled(stencil, size, count)


def compose(*operators: Operator) -> Operator:
    """Apply operators from right to left: compose(grey(), average_pool(4)) pools first."""
    return compositions.compose(*operators)


def _mask(known: Tensor | NDArray[Any]) -> Tensor:
    there = known if isinstance(known, Tensor) else torch.from_numpy(np.ascontiguousarray(known))
    there = there != 0
    return there[None, None] if there.ndim == 2 else there


def _stencilled(stencil: Stencil, size: tuple[int, int], count: int) -> Operator:
    height, width = size
    least = threshold(stencil, _DTYPE)
    if stencil.separable:
        rows = AxisOperator.of([axis_matrix(stencil, 0, height, 0, height)] * count)
        cols = AxisOperator.of([axis_matrix(stencil, 1, width, 0, width)] * count)
        return Separable(rows, cols, stencil.scale, least)
    return Convolution(stencil, _inside(stencil, size).repeat(count, 1, 1, 1), least)


def _inside(stencil: Stencil, size: tuple[int, int]) -> Tensor:
    """Return (1, 1, H, W), true for measurements whose support lies in the picture."""
    valid = torch.zeros((1, 1, *size), dtype=torch.bool)
    (top, bottom), (left, right) = (stencil.inside(axis, 0, size[axis]) for axis in (0, 1))
    valid[..., top:bottom, left:right] = True
    return valid


__all__ = [
    "average_pool",
    "bicubic",
    "blur",
    "compose",
    "grey",
    "hadamard",
    "identity",
    "mask",
    "masked_pool",
]
