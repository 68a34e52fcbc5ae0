"""Between stored samples and [-1, 1]."""

import numpy as np
import pytest

from storage.pixels import from_unit, peak, to_unit

DTYPES = ["uint8", "uint16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sample_survives_the_round_trip(dtype):
    samples = np.arange(peak(dtype) + 1, dtype=dtype)
    unit = to_unit(samples)
    assert unit.dtype == np.float32
    assert (unit[0], unit[-1]) == (-1, 1)
    back = from_unit(unit, dtype)
    assert back.dtype == dtype
    assert np.array_equal(back, samples)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_rounded_to_the_nearest_sample_and_clipped(dtype):
    top = peak(dtype)
    values = np.array(
        [-7, -1, -1 + 2 * 0.4 / top, -1 + 2 * 0.6 / top, 1, 1.5, np.inf, -np.inf], np.float64
    )
    assert from_unit(values, dtype).tolist() == [0, 0, 0, 1, top, top, top, 0]


def test_a_half_is_rounded_up():
    assert from_unit(np.array([0.0], np.float32), "uint8").tolist() == [128]


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN cannot become uint8"):
        from_unit(np.array([0, np.nan], np.float32), "uint8")


@pytest.mark.parametrize("dtype", ["int16", "float32", "bool"])
def test_another_dtype_is_refused(dtype):
    with pytest.raises(ValueError, match="supported: uint8, uint16"):
        to_unit(np.zeros(3, dtype))
