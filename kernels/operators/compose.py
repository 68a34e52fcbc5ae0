"""The degradation operator of a task, built from its parts: pooling, grey, mask, in the order in
which they compose.
"""

from __future__ import annotations

from torch import Tensor

from kernels.operators.linear_operator import AveragePool, Grey, Identity, Mask, Operator, compose
from kernels.operators.smooth_pool import SmoothPool


def measurement_operator(
    scale: int, *, grey: bool, known: Tensor | None, channels: int, smooth: bool = False
) -> Operator:
    """Return A of a measurement that was pooled by `scale`, then turned grey, then lost its unknown
    pixels.

    known: (B, 1, h, w) bool in the measurement's own pixels; None when all are known. channels: of
    the picture. smooth: correct pooled measurements with the smooth inverse (noise-free ones only).
    The mask comes last because a mask before pooling breaks A A+ A = A (method.md section 4).
    """
    parts: list[Operator] = []
    if known is not None:
        parts.append(Mask(known))
    if grey:
        parts.append(Grey(channels))
    if scale > 1:
        parts.append(SmoothPool(scale) if smooth else AveragePool(scale))
    return compose(*parts) if parts else Identity()
