"""Operators that act on cells, channels or pixels: the parts that tasks are composed of.

    operator            A                                    A+                            value
    Identity()          x                                    y                             1
    AveragePool(k)      mean of k x k cells                  replicate                     1/k
    Grey(C)             mean of the channels                 copy to each channel          1/sqrt(C)
    Mask(m)             m x                                  m y                           m
    MaskedPool(k, m)    mean of a cell's n known pixels      spread to the known pixels    m/sqrt(n)

The last column gives the nonzero singular values. `kernels.operators.compose` chains operators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.operators.linear_operator import Operator


@dataclass(frozen=True, slots=True)
class Identity(Operator):
    """Measure the picture itself; with sigma_y > 0 the task is denoising."""

    def A(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def pinv(self, y: Tensor) -> Tensor:
        """Return y."""
        return y

    def singular_values(self, x: Tensor) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, slots=True)
class AveragePool(Operator):
    """Average cells of scale x scale pixels: super-resolution, and the guide of a coarser level."""

    # field() without a default, or the dataclass would take the protocol's property for one.
    scale: int = field()

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H/k, W/k)."""
        return F.avg_pool2d(x, self.scale)

    def pinv(self, y: Tensor) -> Tensor:
        """Return (B, C, H, W) with every measurement pixel repeated k x k times."""
        return replicate(y, self.scale)

    def singular_values(self, x: Tensor) -> float:
        """Return 1/k."""
        return 1.0 / self.scale


@dataclass(frozen=True, slots=True)
class Grey(Operator):
    """Average the channels: colorization."""

    channels: int = 3

    def A(self, x: Tensor) -> Tensor:
        """Return (B, 1, H, W); raise ValueError when x has another number of channels."""
        if x.shape[1] != self.channels:
            raise ValueError(f"Grey got {x.shape[1]} channels; give it {self.channels}")
        # Spelled out, because a reduction may add in another order for another batch size.
        channels = [x[:, c : c + 1] for c in range(self.channels)]
        return reduce(torch.add, channels) / self.channels

    def pinv(self, y: Tensor) -> Tensor:
        """Return (B, C, H, W) with every channel equal to y; a map that already broadcasts is
        copied the same way.
        """
        return y.expand(-1, self.channels, -1, -1)

    def singular_values(self, x: Tensor) -> float:
        """Return 1/sqrt(C)."""
        return 1.0 / math.sqrt(self.channels)


@dataclass(frozen=True, slots=True, eq=False)
class Mask(Operator):
    """Keep the known pixels: inpainting and outpainting."""

    mask: Tensor
    """(B, 1, H, W) or (B, C, H, W), bool or 0 and 1; true where the pixel is known."""

    @property
    def surjective(self) -> bool:
        """Tell that unknown pixels of a measurement cannot be reached."""
        return False

    def A(self, x: Tensor) -> Tensor:
        """Return x with 0 at the unknown pixels."""
        return torch.where(self.mask.bool(), x, 0.0)

    def pinv(self, y: Tensor) -> Tensor:
        """Return y with 0 at the unknown pixels, whatever y holds there."""
        return torch.where(self.mask.bool(), y, 0.0)

    def singular_values(self, x: Tensor) -> Tensor:
        """Return the mask as a map of 0 and 1."""
        return self.mask.to(x.dtype)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x overwritten by the known pixels, bit for bit."""
        return torch.where(self.mask.bool(), y, x)


@dataclass(frozen=True, slots=True, eq=False)
class MaskedPool(Operator):
    """Average each cell over its known pixels only, in the normalised form that keeps A A+ A = A.

    sigma_y of such a measurement is the noise of the averages, not of the pixels. A cell without
    known pixels measures 0 and constrains nothing.
    """

    scale: int = field()
    mask: Tensor
    """(B, 1, H, W) or (B, C, H, W), bool or 0 and 1; true where the pixel is known."""

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    @property
    def surjective(self) -> bool:
        """Tell that a cell without known pixels cannot be reached."""
        return False

    def known_counts(self, dtype: torch.dtype) -> Tensor:
        """Return the number of known pixels of every cell, (B, 1 or C, H/k, W/k)."""
        return _cell_sums(self.mask.to(dtype), self.scale)

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H/k, W/k), 0 for a cell without known pixels."""
        known = torch.where(self.mask.bool(), x, 0.0)
        sums = _cell_sums(known, self.scale)
        counts = self.known_counts(x.dtype)
        return sums / counts.clamp(min=1)

    def pinv(self, y: Tensor) -> Tensor:
        """Return (B, C, H, W), y at the known pixels of each cell and 0 at the others."""
        spread = replicate(y, self.scale)
        return torch.where(self.mask.bool(), spread, 0.0)

    def singular_values(self, x: Tensor) -> Tensor:
        """Return the map of 1/sqrt(known pixels of the cell), 0 at unknown pixels."""
        counts = self.known_counts(x.dtype)
        values = 1.0 / counts.clamp(min=1).sqrt()
        return self.pinv(values)


def replicate(y: Tensor, scale: int) -> Tensor:
    """Repeat every pixel scale x scale times: (B, C, h, w) -> (B, C, h*scale, w*scale)."""
    b, c, h, w = y.shape
    cells = y[:, :, :, None, :, None].expand(b, c, h, scale, w, scale)
    return cells.reshape(b, c, h * scale, w * scale)


def _cell_sums(x: Tensor, scale: int) -> Tensor:
    return F.avg_pool2d(x, scale, divisor_override=1)


def _check_scale(scale: int) -> None:
    if scale < 1:
        raise ValueError(f"scale {scale} is no cell size; choose a whole number of at least 1")
