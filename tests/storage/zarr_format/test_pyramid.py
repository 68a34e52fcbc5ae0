"""Pyramids: the rounded mean of what is known under every coarser pixel, for every dtype."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storage.zarr_format.downsample import halve

WHOLE = ("uint8", "uint16", "int16")


def naive(pixels, nodata):
    """The same in Python's own numbers, one pixel at a time."""
    channels, height, width = pixels.shape
    out = np.empty((channels, -(-height // 2), -(-width // 2)), pixels.dtype)
    for c, y, x in np.ndindex(out.shape):
        places = [
            (j, i)
            for j in (2 * y, min(2 * y + 1, height - 1))
            for i in (2 * x, min(2 * x + 1, width - 1))
        ]
        values = [
            pixels[c, j, i].item() for j, i in places if nodata is None or pixels[c, j, i] != nodata
        ]
        out[c, y, x] = math.floor(sum(values) / len(values) + 0.5) if values else nodata
    return out


def images(dtype, **limits):
    shape = st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7))
    return hnp.arrays(dtype, shape, elements=limits.get("elements"))


@given(st.sampled_from(WHOLE).flatmap(images))
def test_a_coarser_pixel_is_the_rounded_mean_of_two_by_two(pixels):
    assert np.array_equal(halve(pixels), naive(pixels, None))


@given(
    st.sampled_from(WHOLE).flatmap(lambda dtype: images(dtype, elements=st.integers(0, 3))),
    st.integers(0, 3),
)
def test_nodata_does_not_mix_into_the_mean(pixels, nodata):
    assert np.array_equal(halve(pixels, nodata), naive(pixels, nodata))


def test_extremes_do_not_overflow():
    for dtype in WHOLE:
        for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
            assert (halve(np.full((1, 4, 4), value, dtype)) == value).all()
            assert (halve(np.full((1, 4, 4), value, dtype), nodata=7) == value).all()


def test_floats_keep_their_fractions_and_their_unknown_pixels():
    pixels = np.array([[[0.5, 1.0, np.nan, np.nan], [2.0, np.nan, np.nan, np.nan]]], np.float32)
    halved = halve(pixels, nodata=math.nan)
    assert halved.dtype == np.float32
    assert halved[0, 0, 0] == pytest.approx(3.5 / 3)
    assert np.isnan(halved[0, 0, 1])
    assert halve(np.array([[[1, 2], [3, 5]]], np.float32), nodata=-9999.0).item() == 2.75
    assert halve(np.full((1, 2, 2), -3.4e38, np.float32), nodata=-3.4e38).item() == np.float32(
        -3.4e38
    )


def test_a_nodata_value_that_the_dtype_cannot_hold_is_no_pixel():
    pixels = np.array([[[1, 2], [3, 4]]], np.uint8)
    for nodata in (-9999.0, 256.0, 0.5, math.nan, math.inf):
        assert halve(pixels, nodata).item() == 3


@pytest.mark.parametrize(
    ("dtype", "nodata", "four", "other"),
    [
        ("int16", 0, [[-1, 1], [1, -1]], 1),
        ("uint8", 255, [[254, 254], [255, 254]], 254),
        ("uint16", 0, [[1, 0], [0, 0]], 1),
        ("uint16", 65535, [[65534, 65535], [65534, 65534]], 65534),
        (
            "float32",
            -9999,
            [[-10_000, -9_998], [-9_998, -10_000]],
            np.nextafter(-9999, 0, dtype="f4"),
        ),
        ("float32", 0, [[-1, 1], [1, -1]], np.nextafter(0, 1, dtype="f4")),
    ],
)
def test_a_mean_of_valid_samples_is_never_nodata(dtype, nodata, four, other):
    assert halve(np.array([four], dtype), nodata, apart=True) == other
    nothing = np.full((1, 2, 2), nodata, dtype)
    assert halve(nothing, nodata, apart=True) == nodata
