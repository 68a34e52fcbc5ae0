"""The nearest picture with the same cell means and samples within black and white.

Clipping to [low, high] moves the mean of every cell that touches a limit, and A x = y with it. For
cells that share no pixel the nearest point of {mean = m} with low <= x <= high is
clip(x + shift) with one shift per cell (the projection onto a simplex-like set: Held, Wolfe and
Crowder 1974), found by Newton steps on a piecewise linear, increasing function.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.operators.elementary import replicate

# Newton's steps on a piecewise linear function end after as many as it has kinks; nearly always
# after three.
MOST_STEPS = 40
# Means closer than this to the wanted ones are equal, in the unit of the [-1, 1] range: a
# hundredth of a level of 65,535.
CLOSE = 3e-7


def clip_keeping_means(
    x: Tensor,
    scale: int,
    low: float | Tensor,
    high: float | Tensor,
    *,
    joint: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Return x with every sample in [low, high] and the means of all cells as they were.

    x: (B, C, H, W), H and W multiples of `scale`. joint: a cell holds all channels (colorization),
    else each channel has its own. mask: (B, 1 or C, H, W) bool, the pixels that a cell's mean
    counts; the others are only clipped. low, high: numbers, or (B, C, 1, 1) where channels differ,
    never with `joint`. A cell whose mean lies outside [low, high] ends at the nearer limit. Cells
    that touch no limit keep their samples bit for bit.
    """
    outside = (x < low) | (x > high)
    if not bool(outside.any()):
        return x
    counted = torch.ones_like(x) if mask is None else mask.to(x.dtype).expand_as(x)
    weight = counted.double()
    number = _cell_sums(weight, scale, joint).clamp(min=1)
    values = x.double()
    wanted = _cell_sums(values * weight, scale, joint) / number
    wanted = _clamp(wanted, low, high)

    # Every cell has its own bracket and its own end, so that no batch changes a tile's bytes.
    shift = torch.zeros_like(wanted)
    least = low - _cell_extremes(values, scale, joint, torch.amax)
    most = high - _cell_extremes(values, scale, joint, torch.amin)
    for _ in range(MOST_STEPS):
        moved = values + _spread(shift, scale, x)
        clipped = _clamp(moved, low, high)
        error = wanted - _cell_sums(clipped * weight, scale, joint) / number
        open_cells = error.abs() > CLOSE
        if not bool(open_cells.any()):
            break
        least = torch.where(error > 0, shift, least)
        most = torch.where(error < 0, shift, most)
        inside = ((moved > low) & (moved < high)).double() * weight
        slope = _cell_sums(inside, scale, joint) / number
        newton = shift + error / slope.clamp(min=1e-12)
        better = torch.where((newton > least) & (newton < most), newton, (least + most) / 2)
        shift = torch.where(open_cells, better, shift)

    touched = _spread(_cell_sums(outside.double() * weight, scale, joint) > 0, scale, x)
    projected = _clamp(values + _spread(shift, scale, x), low, high).to(x.dtype)
    return torch.where(touched & (counted > 0), projected, _clamp(x, low, high))


def _clamp(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Return x within limits, which are numbers or tensors that fit x, in x's dtype."""
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return torch.minimum(torch.maximum(x, low.to(x.dtype)), high.to(x.dtype))
    return x.clamp(low, high)  # type: ignore[arg-type]


def _cell_sums(x: Tensor, scale: int, joint: bool) -> Tensor:
    """Return the sums of cells, (B, C or 1, H/k, W/k), added in an order that no batch changes."""
    b, c, h, w = x.shape
    cells = x.reshape(b, c, h // scale, scale, w // scale, scale).sum(dim=(3, 5))
    if not joint:
        return cells
    total = cells[:, :1].clone()
    for channel in range(1, c):
        total += cells[:, channel : channel + 1]
    return total


def _cell_extremes(x: Tensor, scale: int, joint: bool, extreme: Callable[..., Tensor]) -> Tensor:
    """Return the largest or least sample of each cell, in the shape of `_cell_sums`."""
    b, c, h, w = x.shape
    cells = extreme(x.reshape(b, c, h // scale, scale, w // scale, scale), dim=(3, 5))
    return extreme(cells, dim=1, keepdim=True) if joint else cells


def _spread(cells: Tensor, scale: int, x: Tensor) -> Tensor:
    """Return what belongs to a cell at each of its pixels, in the shape of x."""
    return replicate(cells, scale).expand_as(x)
