"""The laws of operators, checked in numbers on random pictures in float64: for operators that
nobody has tested yet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.operators.linear_operator import Operator

# Largest relative error that still counts as rounding; operators may keep float32 constants.
ROUNDING = 1e-5
# Side of the pictures in units of the operator's alignment; 3 has an inner window beside both
# edges.
UNITS = 3


def check_laws(operator: Operator, name: str, channels: int, *, noisy: bool = False) -> None:
    """Raise ValueError naming the first broken law and by how much; pictures have `channels`
    channels.

    noisy: A+A must be an orthogonal projector with the declared singular values, which DDNM+
    divides by.
    """
    unit = operator.alignment
    s = operator.scale
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(
        (2, 1, channels, UNITS * unit, UNITS * unit), dtype=torch.float64, generator=generator
    )

    def hold(law: str, found: Tensor, wanted: Tensor) -> None:
        if found.shape != wanted.shape:
            raise ValueError(
                f"operator {name} breaks {law}: shape {tuple(found.shape)} instead of {tuple(wanted.shape)}"
            )
        error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        if not error <= ROUNDING:
            raise ValueError(
                f"operator {name} breaks {law}: relative error {error:.2g}, limit {ROUNDING:g}; correct it"
            )

    y = operator.A(x)
    if y.ndim != 4 or y.shape[2:] != (x.shape[2] // s, x.shape[3] // s):
        side = x.shape[2]
        raise ValueError(
            f"operator {name} breaks its declared scale {s}: {side} px gave {tuple(y.shape[2:])} instead of {side // s}"
        )
    hold("linearity A(x + 2z) = A x + 2 A z", operator.A(x + 2 * z), y + 2 * operator.A(z))
    hold("A A+ A = A", operator.A(operator.pinv(y)), y)
    kept = operator.pinv(y)
    hold("A+A idempotent", operator.pinv(operator.A(kept)), kept)
    inner = slice(unit, 2 * unit)
    window = x[:, :, inner, inner]
    cells = slice(unit // s, 2 * unit // s)
    hold(f"crop: A of a window aligned to {unit} px", operator.A(window), y[:, :, cells, cells])
    hold(
        f"crop: A+ of a window aligned to {unit} px",
        operator.pinv(y[:, :, cells, cells]),
        kept[:, :, inner, inner],
    )
    if noisy:
        mirrored = (kept * z).sum(), (x * operator.pinv(operator.A(z))).sum()
        hold(
            "A+A self-adjoint (noisy measurements need the Moore-Penrose inverse)",
            mirrored[0],
            mirrored[1],
        )
        hold(
            "its declared singular values |A v| = |s v| in the range of A+",
            operator.A(kept).square().sum(),
            (operator.singular_values(x) * kept).square().sum(),
        )
