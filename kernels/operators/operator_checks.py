"""Check an operator that nobody has tested yet: what every operator promises, in numbers, on random
pictures in float64.
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


def check_operator(
    operator: Operator,
    name: str,
    channels: int,
    *,
    noisy: bool = False,
) -> None:
    """Raise ValueError naming the first promise that the operator breaks, and by how much.

    name: how messages call it. channels: of the pictures it is tried on. noisy: A+A must be an
    orthogonal projector with the declared singular values, which DDNM+ divides by.
    """
    side = UNITS * operator.alignment
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, channels, side, side)
    x, z = torch.randn(shape, dtype=torch.float64, generator=generator)
    y = operator.A(x)
    back = operator.pinv(y)

    _check_scale(operator, name, x, y)
    combined = operator.A(x + 2 * z)
    _check_equal(name, "linearity A(x + 2z) = A x + 2 A z", combined, y + 2 * operator.A(z))
    _check_equal(name, "A A+ A = A", operator.A(back), y)
    _check_equal(name, "A+A idempotent", operator.pinv(operator.A(back)), back)
    _check_crop(operator, name, x, y, back)
    if noisy:
        _check_projector(operator, name, x, z, back)


def _check_scale(
    operator: Operator,
    name: str,
    x: Tensor,
    y: Tensor,
) -> None:
    """Check that the measurement y of x has the size that the declared scale promises."""
    scale = operator.scale
    side = x.shape[2]
    wanted = side // scale
    if y.ndim != 4 or y.shape[2:] != (wanted, wanted):
        sides = tuple(y.shape[2:])
        raise ValueError(
            f"operator {name} breaks its declared scale {scale}: "
            f"{side} px gave {sides} instead of {wanted}"
        )


def _check_crop(
    operator: Operator,
    name: str,
    x: Tensor,
    y: Tensor,
    back: Tensor,
) -> None:
    """Check that the inner one of three aligned windows is measured, and taken back, as alone."""
    unit = operator.alignment
    inner = slice(unit, 2 * unit)
    cells = slice(unit // operator.scale, 2 * unit // operator.scale)
    window = x[:, :, inner, inner]
    measured = y[:, :, cells, cells]

    aligned = f"of a window aligned to {unit} px"
    _check_equal(name, f"crop: A {aligned}", operator.A(window), measured)
    alone = operator.pinv(measured)
    _check_equal(name, f"crop: A+ {aligned}", alone, back[:, :, inner, inner])


def _check_projector(
    operator: Operator,
    name: str,
    x: Tensor,
    z: Tensor,
    back: Tensor,
) -> None:
    """Check that A+A is its own adjoint and has the declared singular values; back: A+A x."""
    _check_equal(
        name,
        "A+A self-adjoint (noisy measurements need the Moore-Penrose inverse)",
        (back * z).sum(),
        (x * operator.pinv(operator.A(z))).sum(),
    )
    weighed = operator.singular_values(x) * back
    _check_equal(
        name,
        "its declared singular values |A v| = |s v| in the range of A+",
        operator.A(back).square().sum(),
        weighed.square().sum(),
    )


def _check_equal(
    name: str,
    promise: str,
    actual: Tensor,
    wanted: Tensor,
) -> None:
    """Raise ValueError when two tensors differ in shape or by more than rounding."""
    if actual.shape != wanted.shape:
        raise ValueError(
            f"operator {name} breaks {promise}: "
            f"shape {tuple(actual.shape)} instead of {tuple(wanted.shape)}"
        )
    difference = (actual - wanted).abs().max()
    size = wanted.abs().max().clamp(min=1e-30)
    error = float(difference / size)
    if not error <= ROUNDING:
        raise ValueError(
            f"operator {name} breaks {promise}: "
            f"relative error {error:.2g}, limit {ROUNDING:g}; correct it"
        )
