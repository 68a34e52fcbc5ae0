"""Overlapping measurements hold on pixels that can be stored: within black and white."""

import pytest
import torch

from kernels.operators.bounded_change import Limits
from kernels.operators.convolution import Convolution, valid_mask
from kernels.operators.linear_operator import Free
from kernels.operators.separable import Separable
from kernels.operators.stencil import bicubic, from_weights, gaussian, uniform
from orchestrator.job.fields.tolerance import threshold, tolerance

SIDE = 48
LEVEL = 2 / 255
LIMITS = Limits(-1.0, 1.0, -1.0, 1.0, LEVEL)


def contrasty():
    """Return a picture of which a third is black or white."""
    noise = torch.randn((1, 2, SIDE, SIDE), generator=torch.Generator().manual_seed(3)).double()
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    return (2.0 * smooth / smooth.std() * 0.5).clamp(-1, 1)


def diagonal():
    weights = torch.full((5, 5), 0.02).double()
    weights.fill_diagonal_(0.12)
    return from_weights(weights.numpy() / weights.sum().item(), normalise=True)


def operator(stencil):
    if stencil.separable:
        return Separable.build(stencil, SIDE, [(0, 0, SIDE, SIDE)], threshold(stencil, "uint8"))
    valid = valid_mask(stencil, SIDE, (0, 0, SIDE, SIDE))[None]
    return Convolution(stencil, valid, threshold(stencil, "uint8"))


def free_but(pinned=None):
    pixels = torch.ones((1, 1, SIDE, SIDE), dtype=torch.bool)
    rows = torch.ones((1, SIDE), dtype=torch.bool)
    if pinned is not None:
        pixels[:, :, :pinned] = False
        rows[:, :pinned] = False
    return Free(pixels, rows, torch.ones((1, SIDE), dtype=torch.bool))


def misfit(A, x, y):
    """Return the largest |A x - y| in levels, over the measurements whose support is inside."""
    wrong = (A.A(x) - y).abs()
    if isinstance(A, Separable):
        wrong = wrong[:, :, A.rows.exact[0]][..., A.cols.exact[0]]
    return float(wrong.max()) / LEVEL


STENCILS = {
    "gaussian": gaussian(1.0),
    "uniform": uniform(5),
    "diagonal": diagonal(),
    "x2": bicubic(2),
    "x4": bicubic(4),
}


@pytest.mark.parametrize("name", STENCILS)
@pytest.mark.parametrize("pinned", [None, 16])
def test_the_measurement_holds_within_black_and_white(name, pinned):
    stencil = STENCILS[name]
    A = operator(stencil)
    truth = contrasty()
    y = A.A(truth)
    asked = tolerance(stencil, "uint8") * LEVEL
    start = torch.nn.functional.avg_pool2d(truth, 3, 1, 1)
    free = free_but(pinned)
    start = torch.where(free.pixels, start, truth)
    x = A.finish(A.project(start, y).where(free.pixels, truth), y, free, asked)
    cut = misfit(A, x.clamp(-1, 1), y)
    assert LIMITS.touched(x, free.pixels)
    found = A.finish_within(x, y, free, LIMITS.loosened(asked), LIMITS)
    assert found.min() >= -1
    assert found.max() <= 1
    assert torch.equal(found[~free.pixels.expand_as(x)], x[~free.pixels.expand_as(x)])
    assert cut > 1
    assert misfit(A, found, y) < 0.6


def test_a_measurement_that_was_cut_off_asks_for_no_more_than_it_says():
    y = torch.tensor([[-1.0, 0.0, 1.0]])
    below, above = LIMITS.tolerances(y, torch.tensor(0.1))
    assert below.tolist()[0] == pytest.approx([float("inf"), 0.1, 0.1])
    assert above.tolist()[0] == pytest.approx([0.1, 0.1, float("inf")])


def test_the_result_does_not_depend_on_the_batch():
    A = operator(gaussian(1.0))
    truth = contrasty()
    x = torch.cat([truth * 1.3, truth.flip(2) * 1.1])
    y = torch.cat([A.A(truth), A.A(truth.flip(2))])
    both = Separable.build(gaussian(1.0), SIDE, [(0, 0, SIDE, SIDE)] * 2, 0.03)
    free = Free(*(part.expand(2, *part.shape[1:]) for part in free_but()))
    together = both.finish_within(x, y, free, 0.3 * LEVEL, LIMITS)
    alone = A.finish_within(x[1:], y[1:], free_but(), 0.3 * LEVEL, LIMITS)
    assert torch.equal(together[1:], alone)
