"""The operator and measurement of a batch of tiles: what the plan's task means for their windows.
Knows torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.operators.compose import compose, measurement_operator
from kernels.operators.convolution import Convolution, valid_mask
from kernels.operators.elementary import Grey, MaskedPool, replicate
from kernels.operators.linear_operator import Operator
from kernels.operators.separable import Separable
from kernels.operators.stencil import Stencil
from kernels.sampling.constraints import Measurement
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.fields.tolerance import threshold, tolerance
from orchestrator.job.plan import Level, Plan
from orchestrator.measurement.nodata import gaps_stay_open

Corners = tuple[int, int, int, int]


def tile_measurement(
    plan: Plan, level: Level, y: Tensor, boxes: Sequence[Corners], fine: Tensor | None
) -> Measurement:
    """Return the measurement of tiles at a level.

    y: (B, C', h, w), NaN where unknown. boxes: the tiles' windows y0, x0, y1, x1 in px of the
    level. fine: (B, 1, P, P) known pixels of a mask at output resolution. Where gaps stay open all
    tiles have some or none has (TileSampler.restore).
    """
    task = plan.task
    known = ~torch.isnan(y)
    y = torch.nan_to_num(y)
    channels = plan.denoiser.channels
    if task.stencil is not None and level.index == 0:
        given = None
        if gaps_stay_open(plan) and not bool(known.all()):
            given = _replicated(known, channels)
        operator = _stencilled(task.stencil, plan, level, boxes, given)
        level_unit = 2.0 / plan.values.levels
        return Measurement(
            operator,
            _replicated(y, channels),
            level.sigma_y,
            tolerance(task.stencil, plan.dtype) * level_unit,
        )
    if not task.picture:
        own = task.operator(plan.spec.task)
        wanted = (
            y.shape[1] * channels // (plan.spec.input.bands or channels)
            if task.coefficients
            else y.shape[1]
        )
        return Measurement(own, _replicated(y, wanted), level.sigma_y)
    if fine is not None and level.index == 0:
        if plan.rules != FIRST:
            # A cell without data, or marked by value, constrains nothing, whatever the mask says.
            cells = known.all(dim=1, keepdim=True)
            fine = fine & replicate(cells, task.scale)
        pooled: Operator = MaskedPool(task.scale, fine)
        return Measurement(
            compose(pooled, Grey(channels)) if plan.grey else pooled, y, level.sigma_y
        )
    operator = measurement_operator(
        level.posed.scale,
        grey=plan.grey,
        known=known if task.masked else None,
        channels=channels,
        smooth=plan.spec.sampling.inverse == "smooth",
    )
    return Measurement(operator, y if plan.grey else _replicated(y, channels), level.sigma_y)


def measure(operator: Operator, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return A x of a picture (C, H, W) in [-1, 1]."""
    y: NDArray[np.float64] = operator.A(torch.from_numpy(x)[None])[0].numpy()
    return y


def rounding_gain(operator: Operator, shape: tuple[int, int, int]) -> float:
    """Return the standard deviation of A e for rounding errors e of a picture, each uniform within
    half a level.
    """
    errors = (
        torch.rand((1, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        - 0.5
    )
    return float(operator.A(errors).std())


def _stencilled(
    stencil: Stencil, plan: Plan, level: Level, boxes: Sequence[Corners], given: Tensor | None
) -> Operator:
    """Return the operator of overlapping measurements; given: which of them there are, (B, C, P, P)
    bool; None: all whose support lies inside.
    """
    side = plan.tile
    least = threshold(stencil, plan.dtype)
    inside = [(-y0, -x0, level.height - y0, level.width - x0) for y0, x0, _, _ in boxes]
    if stencil.separable and given is None:
        return Separable.build(stencil, side, inside, least)
    valid = torch.stack([valid_mask(stencil, side, box) for box in inside])
    return Convolution(stencil, valid if given is None else valid & given.cpu(), least)


def _replicated(y: Tensor, channels: int) -> Tensor:
    """Copy a one-band measurement to the network's channels."""
    return y.repeat(1, channels // y.shape[1], 1, 1)
