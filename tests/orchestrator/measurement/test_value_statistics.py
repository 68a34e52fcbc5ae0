"""The range of an image: from spread windows of valid samples, deterministic and bounded."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.measurement.value_statistics import (
    SIDE,
    WINDOWS,
    BandLook,
    fitted_range,
    look_at,
    of_all_bands,
    spread_windows,
    valid_samples,
)
from storage.box import Box

UINT16 = (0.0, 65535.0)


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_windows_are_few_lie_inside_and_share_no_pixel(height, width):
    boxes = spread_windows(height, width)
    assert 1 <= len(boxes) <= WINDOWS**2
    assert all(0 <= b.y0 < b.y1 <= height and 0 <= b.x0 < b.x1 <= width for b in boxes)
    assert all(b.y1 - b.y0 <= SIDE and b.x1 - b.x0 <= SIDE for b in boxes)
    rows = sorted({(b.y0, b.y1) for b in boxes})
    assert all(first[1] <= second[0] for first, second in pairwise(rows))
    assert rows[0][0] == 0
    assert rows[-1][1] == height


def looked_at(image, invalid=None):
    def read(box):
        assert isinstance(box, Box)
        stored = image[(slice(None), *box.slices())]
        return stored, stored != invalid

    bands = valid_samples(read, spread_windows(*image.shape[1:]))
    looks = [look for look in map(look_at, bands) if look is not None]
    return of_all_bands(looks) if looks else None


def test_a_12_bit_picture_in_16_bits_gets_a_12_bit_range():
    rng = np.random.default_rng(0)
    image = rng.integers(200, 3900, (1, 700, 900)).astype("uint16")
    low, high = fitted_range(looked_at(image), UINT16, whole=True)
    assert 0 <= low < 200
    assert 3900 < high < 4900
    assert low == int(low)
    assert high == int(high)


def test_invalid_samples_and_single_outliers_have_no_say():
    rng = np.random.default_rng(1)
    image = rng.normal(0.2, 0.03, (2, 600, 600)).astype("float32")
    image[0, :, 200:400] = np.nan
    image[1, 10:20, 10:20] = -9999
    image[1, 300, 300] = 1e30
    found = looked_at(image, -9999)
    assert found.used[0] == pytest.approx(0.107, abs=0.02)
    assert found.used[1] == pytest.approx(0.293, abs=0.02)


def test_no_valid_sample_gives_no_range():
    image = np.full((1, 300, 300), np.nan, "float32")
    assert looked_at(image) is None


def test_an_image_of_one_value_has_a_range_around_it():
    for value in (0.0, 7.0, 65535.0):
        only = BandLook((value, value), (value, value))
        low, high = fitted_range(only, UINT16, whole=True)
        assert low <= value <= high
        assert high - low >= 16
    only = BandLook((0.25, 0.25), (0.25, 0.25))
    low, high = fitted_range(only, (-3e38, 3e38), whole=False)
    assert low < 0.25 < high


def test_bright_spots_are_followed_as_far_as_a_third_of_the_range_is_left_for_the_rest():
    spots = BandLook((100.0, 1100.0), (90.0, 1900.0))
    low, high = fitted_range(spots, UINT16, whole=True)
    assert (low, high) == (0, 2150)
    hot = BandLook((100.0, 1100.0), (90.0, 65535.0))
    low, high = fitted_range(hot, UINT16, whole=True)
    assert 2_500 < high < 3_100


@given(
    st.floats(-1e6, 1e6, allow_nan=False),
    st.floats(1e-3, 1e6, allow_nan=False),
)
def test_a_range_holds_what_was_seen(low, spread):
    seen = (low, low + spread)
    bottom, top = fitted_range(BandLook(seen, seen), (-3e38, 3e38), whole=False)
    assert bottom <= low
    assert top >= low + spread
    assert top - bottom <= 1.6 * spread + max(abs(low), abs(low + spread)) * 2e-3 + 1e-8
