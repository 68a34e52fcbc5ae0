"""Unknown pixels are filled by a smooth surface: closer to the picture than the averages around."""

import numpy as np
import pytest

from kernels.interpolation import spline_fill
from kernels.resample import fill_unknown


def picture(side=96, bands=2):
    y, x = np.mgrid[:side, :side]
    waves = [np.sin(x / 9 + c) * np.cos(y / 7 - c) * 0.6 for c in range(bands)]
    return np.stack(waves).astype("float32")


@pytest.mark.parametrize("missing", [0.5, 0.8, 0.9, 0.97])
def test_it_is_closer_than_averages_where_most_pixels_are_missing(missing):
    truth = picture()
    unknown = np.random.default_rng(0).random(truth.shape) < missing
    given = np.where(unknown, np.nan, truth).astype("float32")
    spline = np.sqrt(np.mean((spline_fill(given) - truth) ** 2))
    averages = np.sqrt(np.mean((fill_unknown(given) - truth) ** 2))
    assert spline < 0.75 * averages


def test_known_pixels_keep_their_bits_and_filled_ones_stay_within_them():
    truth = picture()
    unknown = np.random.default_rng(1).random(truth.shape) < 0.8
    filled = spline_fill(np.where(unknown, np.nan, truth).astype("float32"))
    assert np.array_equal(filled[~unknown], truth[~unknown])
    for band in range(len(truth)):
        known = truth[band][~unknown[band]]
        assert known.min() <= filled[band].min() <= filled[band].max() <= known.max()


def test_a_ramp_is_continued_over_a_wide_hole():
    x = np.broadcast_to(np.linspace(-0.5, 0.5, 64, dtype="float32"), (1, 64, 64))
    given = x.copy()
    given[:, 20:44, 20:44] = np.nan
    assert np.abs(spline_fill(given) - x).max() < 0.03


def test_each_band_has_its_own_holes_and_one_without_pixels_is_grey():
    given = picture()
    given[0, :50] = np.nan
    given[1] = np.nan
    filled = spline_fill(given)
    assert np.isfinite(filled).all()
    assert not filled[1].any()
    assert np.array_equal(filled[0, 50:], given[0, 50:])


def test_a_complete_picture_is_returned_as_it_is():
    assert spline_fill(picture()) is not None
    assert np.array_equal(spline_fill(picture()), picture())
