"""Georeferences: a finer or cropped grid covers the same ground, whatever the rotation and the
source's convention.
"""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import FormatError
from storage.geo import Georeference

NORTH_UP = (30.0, 0.0, 399960.0, 0.0, -30.0, 4900020.0)
ROTATED = (26.0, 15.0, 399960.0, 15.0, -26.0, 4900020.0)


def georeference(transform=NORTH_UP, **other):
    return Georeference(crs='LOCAL_CS["test"]', transform=transform, **other)


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED], ids=["north-up", "rotated"])
@pytest.mark.parametrize("point", [False, True], ids=["area", "point"])
@given(scale=st.integers(2, 16), height=st.integers(1, 90000), width=st.integers(1, 90000))
def test_a_finer_grid_has_the_same_bounds(transform, point, scale, height, width):
    before = georeference(transform, pixel_is_point=point)
    after = before.scaled(scale)
    assert after.bounds(height * scale, width * scale) == pytest.approx(
        before.bounds(height, width), rel=1e-12
    )
    assert after.pixel_is_point == point
    middle = before.at(0.5, 0.5)
    assert after.at(scale / 2, scale / 2) == pytest.approx(middle, rel=1e-12)


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED], ids=["north-up", "rotated"])
@given(y=st.integers(-500, 50000), x=st.integers(-500, 50000), scale=st.integers(1, 8))
def test_pixels_of_a_crop_stay_where_they_were_and_cropping_commutes_with_scaling(
    transform, y, x, scale
):
    whole = georeference(transform)
    assert whole.cropped(y, x).at(3.5, 7.5) == pytest.approx(whole.at(y + 3.5, x + 7.5), rel=1e-12)
    one = whole.cropped(y, x).scaled(scale)
    other = whole.scaled(scale).cropped(y * scale, x * scale)
    assert one.transform == pytest.approx(other.transform, rel=1e-12)


def test_north_up_bounds_are_those_of_the_corners():
    assert georeference().bounds(100, 200) == (399960.0, 4897020.0, 405960.0, 4900020.0)


@given(
    st.tuples(*[st.floats(-1e9, 1e9, allow_nan=False)] * 4),
    st.booleans(),
    st.sampled_from([None, 32633]),
)
def test_json_keeps_every_bit(numbers, point, epsg):
    a, c, e, f = numbers
    if a * e == 0:
        a = 1.0
        e = -1 / 3
    before = georeference((a, 0.0, c, 0.0, e, f), pixel_is_point=point, epsg=epsg)
    assert Georeference.from_dict(json.loads(json.dumps(before.as_dict()))) == before


@pytest.mark.parametrize(
    "transform", [(1, 2, 0, 2, 4, 0), (0, 0, 0, 0, 0, 0), (1, 0, math.nan, 0, 1, 0)]
)
def test_a_transform_that_maps_no_area_is_refused(transform):
    with pytest.raises(FormatError, match="maps no area"):
        georeference(transform)


@pytest.mark.parametrize(
    "found", [{}, {"crs": "x", "transform": [1, 2]}, {"crs": "x", "transform": None}]
)
def test_other_attributes_are_refused(found):
    with pytest.raises(FormatError, match="6 numbers"):
        Georeference.from_dict(found)
