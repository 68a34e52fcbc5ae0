"""Bands that lack all their pixels under a window are filled with mid-grey, the others as ever."""

import numpy as np

from kernels.resample import fill_unknown


def test_a_band_without_a_known_pixel_beside_others_is_filled():
    picture = np.random.default_rng(0).normal(0, 0.3, (3, 24, 24)).astype("float32")
    picture[1] = np.nan
    picture[2, 5:9] = np.nan
    filled = fill_unknown(picture)
    assert not filled[1].any()
    assert np.array_equal(filled[0], picture[0])
    assert np.array_equal(filled[2], fill_unknown(picture[2:])[0])
