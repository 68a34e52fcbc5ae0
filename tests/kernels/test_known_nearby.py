"""How scattered known pixels are tells single missing pixels from holes."""

import numpy as np
import pytest

from kernels.known_nearby import densely_known, scattered_share


def scattered(share, side=128, seed=0):
    return np.random.default_rng(seed).random((1, side, side)) < share


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 0.5, 0.75])
def test_pixels_that_are_missing_one_by_one_leave_the_share_that_is_known(share):
    assert scattered_share([scattered(share)]) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("side", [3, 10, 40, 100])
def test_a_hole_leaves_nearly_one_however_large_it_is(side):
    known = np.ones((1, 128, 128), bool)
    known[:, 20 : 20 + side, 20 : 20 + side] = False
    assert scattered_share([known]) > 0.8


def test_it_looks_at_the_edges_of_what_is_missing_and_not_at_what_is_whole():
    half = scattered(0.1)
    half[:, :, 64:] = True
    assert scattered_share([half]) < 0.25


def test_windows_count_by_what_is_missing_in_them():
    whole = np.ones((1, 64, 64), bool)
    assert scattered_share([whole, scattered(0.1)]) == scattered_share([scattered(0.1)])
    assert scattered_share([whole]) is None


def test_a_pixel_is_densely_known_as_much_at_the_edge_as_inside():
    known = np.zeros((1, 38, 38), bool)
    known[:, 1::3, 1::3] = True
    assert densely_known(known).all()
    assert not densely_known(np.zeros((1, 40, 40), bool)).any()
