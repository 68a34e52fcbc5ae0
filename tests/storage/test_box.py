"""Boxes: half-open integer rectangles in (y, x) order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.box import Box

sides = st.integers(0, 40)


@st.composite
def boxes(draw):
    y0 = draw(st.integers(-20, 20))
    x0 = draw(st.integers(-20, 20))
    return Box(y0, x0, y0 + draw(sides), x0 + draw(sides))


def pixels(box):
    return {(y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)}


def test_a_box_knows_its_size():
    box = Box(1, 2, 5, 9)
    assert (box.height, box.width, box.shape, box.area, box.empty) == (4, 7, (4, 7), 28, False)
    assert np.arange(100).reshape(10, 10)[box.slices()].shape == box.shape
    assert str(box) == "rows 1..5, columns 2..9"


def test_a_box_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="ends before it starts"):
        Box(3, 0, 2, 5)


@given(boxes(), boxes())
def test_intersect_is_the_common_set_of_pixels(a, b):
    assert pixels(a.intersect(b)) == pixels(a) & pixels(b)


@given(boxes(), boxes())
def test_contains_is_the_subset_relation(a, b):
    assert a.contains(b) == (pixels(b) <= pixels(a))


@given(boxes(), sides, sides)
def test_clip_keeps_the_pixels_inside_the_image(box, height, width):
    assert pixels(box.clip(height, width)) == pixels(box) & pixels(Box(0, 0, height, width))


@given(boxes(), st.integers(1, 9))
def test_floordiv_undoes_scale(box, n):
    assert box.scale(n).floordiv(n) == box


@given(boxes(), st.integers(1, 9))
def test_cover_is_the_smallest_coarse_box_around(box, n):
    if not box.empty:
        coarse = {(y // n, x // n) for y, x in pixels(box)}
        assert pixels(box.cover(n)) == coarse


def test_floordiv_refuses_to_lose_pixels():
    with pytest.raises(ValueError, match=r"not aligned to 4; use cover\(4\)"):
        Box(0, 0, 8, 6).floordiv(4)


@given(boxes(), st.integers(0, 5))
def test_expand_then_shift_moves_every_edge(box, n):
    assert box.expand(n) == Box(box.y0 - n, box.x0 - n, box.y1 + n, box.x1 + n)
    assert box.shift(n, -n) == Box(box.y0 + n, box.x0 - n, box.y1 + n, box.x1 - n)
