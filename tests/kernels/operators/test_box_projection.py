"""Black and white keep the means: the nearest picture within the limits that measures the same."""

import numpy as np
import pytest
import torch

from kernels.operators.box_projection import clip_keeping_means


def pictures(seed, spread=1.3, shape=(2, 3, 24, 24)):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, spread, shape).astype("float32"))


def cell_means(x, scale):
    b, c, h, w = x.shape
    return x.double().reshape(b, c, h // scale, scale, w // scale, scale).mean(dim=(3, 5))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("spread", [0.4, 1.0, 5.0])
def test_every_mean_that_can_be_kept_is_kept(scale, spread):
    x = pictures(scale, spread)
    y = clip_keeping_means(x, scale, -1.0, 1.0)
    wanted = cell_means(x, scale).clamp(-1, 1)
    assert float((cell_means(y, scale) - wanted).abs().max()) < 1e-6
    assert float(y.min()) >= -1
    assert float(y.max()) <= 1


def test_it_is_the_nearest_such_picture():
    """Against alternating projections of Dykstra, which converge to the nearest point."""
    x = pictures(7, shape=(1, 1, 8, 8)).double()
    y = x.clone()
    p = torch.zeros_like(x)
    wanted = cell_means(x, 4)
    for _ in range(3000):
        even = y + (wanted - cell_means(y, 4)).repeat_interleave(4, 2).repeat_interleave(4, 3)
        y = (even + p).clamp(-1, 1)
        p = even + p - y
    assert float((clip_keeping_means(x, 4, -1.0, 1.0) - y).abs().max()) < 1e-4


def test_cells_that_touch_no_limit_keep_their_bits():
    x = pictures(1, 0.2)
    x[:, :, :4, :4] += 1
    y = clip_keeping_means(x, 4, -1.0, 1.0)
    assert torch.equal(y[:, :, 4:], x[:, :, 4:])
    assert not torch.equal(y[:, :, :4, :4], x[:, :, :4, :4])


def test_one_mean_of_all_channels_is_kept_where_they_are_measured_together():
    x = pictures(3)
    y = clip_keeping_means(x, 1, -1.0, 1.0, joint=True)
    wanted = x.double().mean(1).clamp(-1, 1)
    assert float((y.double().mean(1) - wanted).abs().max()) < 1e-6


def test_only_known_pixels_count_and_the_others_are_clipped():
    x = pictures(4)
    mask = torch.from_numpy(np.random.default_rng(5).random((2, 1, 24, 24)) < 0.6)
    y = clip_keeping_means(x, 4, -1.0, 1.0, mask=mask)
    assert torch.equal(y[~mask.expand_as(x)], x.clamp(-1, 1)[~mask.expand_as(x)])
    weight = mask.double()
    number = cell_means(weight, 4).clamp(min=1e-9)
    wanted = (cell_means(x * weight, 4) / number).clamp(-1, 1)
    assert float((cell_means(y * weight, 4) / number - wanted).abs().max()) < 1e-6


def test_a_tile_alone_has_the_bytes_that_it_has_in_a_batch():
    x = pictures(6, shape=(5, 3, 16, 16))
    together = clip_keeping_means(x, 4, -1.0, 1.0)
    for i in range(5):
        assert torch.equal(clip_keeping_means(x[i : i + 1], 4, -1.0, 1.0)[0], together[i])
