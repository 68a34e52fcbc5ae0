"""Average pooling with a smooth generalised inverse: corrections spread bicubically instead of cell
by cell.

A+ of average pooling is replication (Moore-Penrose: the least change), which leaves a step at every
cell border that the last denoising steps no longer remove. With B the bicubic enlargement, A' y = B
y + A+ (y - A B y) is a generalised inverse too: A A' = A B + (1 - A B) = 1. A x = y holds as
exactly as before; the correction is smooth, and only its small remainder is blocky. Not an
orthogonal projector, so it serves noise-free measurements only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.operators.elementary import AveragePool, replicate
from kernels.operators.linear_operator import Operator

# Measurement pixels repeated around a window: the support of the bicubic kernel.
EDGE = 2


@dataclass(frozen=True, slots=True)
class SmoothPool(Operator):
    """Measure by average pooling; correct smoothly."""

    scale: int = field()

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H/k, W/k)."""
        return AveragePool(self.scale).A(x)

    def pinv(self, y: Tensor) -> Tensor:
        """Return (B, C, H, W), the bicubic enlargement made exact by replication; edges of the
        window are repeated.
        """
        smooth = _enlarged(y, self.scale)
        remainder = y - self.A(smooth)
        return smooth + replicate(remainder, self.scale)

    def singular_values(self, x: Tensor) -> float:
        """Return that of average pooling, 1/k; no measure of this inverse's gain."""
        return 1.0 / self.scale


def _enlarged(y: Tensor, scale: int) -> Tensor:
    padded = F.pad(y, (EDGE, EDGE, EDGE, EDGE), mode="replicate")
    # One tile at a time: the kernel's order of sums may depend on the batch.
    wide = [
        F.interpolate(tile[None], scale_factor=scale, mode="bicubic", align_corners=False)
        for tile in padded
    ]
    cut = EDGE * scale
    return torch.cat(wide)[..., cut:-cut, cut:-cut]
