"""Local means of a measurement are given to a restored picture, whatever was wrong with them."""

import pytest
import torch

from kernels.operators.elementary import Grey, Identity
from kernels.sampling.constraints import Measurement
from kernels.sampling.measured_means import REACH, low_pass, with_measured_means


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [32, 64, 160])
def test_an_error_that_is_the_same_all_over_goes(side):
    y = noise(2, 3, side, side)
    found = with_measured_means(y + 0.1, Measurement(Identity(), y, 0.2))
    assert torch.allclose(found, y, atol=1e-6)


def test_next_to_nothing_of_white_noise_comes_with_the_means():
    side = 200
    smooth = low_pass(noise(1, side, side))
    inner = smooth[:, 50:-50, 50:-50]
    assert inner.std() < 1.5 / (2 * torch.pi**0.5 * REACH)


def test_a_picture_s_result_does_not_depend_on_the_others():
    y = noise(3, 3, 48, 48)
    x = noise(3, 3, 48, 48, seed=1)
    together = with_measured_means(x, Measurement(Identity(), y, 0.2))
    alone = with_measured_means(x[1:2], Measurement(Identity(), y[1:2], 0.2))
    assert torch.equal(together[1:2], alone)


def test_a_grey_measurement_moves_all_channels_alike():
    x = noise(1, 3, 64, 64)
    y = x.mean(dim=1, keepdim=True) + 0.3
    found = with_measured_means(x, Measurement(Grey(3), y, 0.2))
    assert torch.allclose(found, x + 0.3, atol=1e-6)
