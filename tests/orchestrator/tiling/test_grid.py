"""Laws of the tile geometry, for every size, stride and order."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.errors import PlanError
from orchestrator.tiling.axis import ORDERS, AxisGrid
from orchestrator.tiling.grid import TileGrid, TileKey
from orchestrator.tiling.task_graph import TaskGraph


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    unit = draw(st.integers(1, 4))
    tile = unit * draw(st.integers(2, 12))
    stride = unit * draw(st.integers(1, tile // unit - 1))
    height, width = (tile + unit * draw(st.integers(0, 40)) for _ in range(2))
    margin = draw(st.integers(0, (tile - stride) // unit // 2)) * unit
    orders = ORDERS if 2 * stride - tile + 2 * margin > 0 else ("raster", "centre")
    order = draw(st.sampled_from(orders))
    block = draw(st.integers(1, 6))
    corners = order in ("raster", "centre") and draw(st.booleans())
    return TileGrid.build(0, height, width, tile, stride, order, margin, block, corners=corners)


@given(grids())
@pytest.mark.slow
def test_owned_boxes_partition_the_image(grid: TileGrid):
    writers = np.zeros((grid.rows.length, grid.cols.length), dtype=int)
    for key in grid.keys():
        y0, x0, y1, x1 = grid.owned(key)
        assert y1 > y0
        assert x1 > x0
        writers[y0:y1, x0:x1] += 1
    assert (writers == 1).all()


def chain(grid: TileGrid, key: TileKey) -> set[TileKey]:
    """Return all tiles of the level that are committed before `key` in every order of
    completion.
    """
    found: set[TileKey] = set()
    left = grid.parents(key)
    while left:
        parent = left.pop()
        if parent not in found:
            found.add(parent)
            left += grid.parents(parent)
    return found


def painted(grid: TileGrid, boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    found = np.zeros((grid.rows.length, grid.cols.length), dtype=int)
    for y0, x0, y1, x1 in boxes:
        found[y0:y1, x0:x1] += 1
    return found


def some(grid: TileGrid) -> list[TileKey]:
    return [grid.key(i) for i in range(0, grid.count, max(1, grid.count // 8))]


@given(grids())
@settings(max_examples=50, deadline=None)
def test_every_pinned_pixel_is_committed_by_the_chain_of_parents(grid: TileGrid):
    for key in some(grid):
        committed = painted(grid, [grid.owned(before) for before in chain(grid, key)])
        window, pinned, owned = (
            painted(grid, boxes) for boxes in ([grid.box(key)], grid.pinned(key), [grid.owned(key)])
        )
        assert (pinned <= committed * window).all()
        assert (pinned * owned == 0).all()
        y0, x0, y1, x1 = grid.settled(key)
        assert ((pinned + owned)[y0:y1, x0:x1] == 1).all()
        assert len(grid.parents(key)) <= (2 if grid.corners else 4)


@given(grids())
@settings(max_examples=30, deadline=None)
def test_with_corners_no_two_tiles_that_touch_are_unaware_of_each_other(grid: TileGrid):
    assume(all(axis.ranks.count(0) == 1 for axis in (grid.rows, grid.cols)))
    grid = replace(grid, corners=True)
    for key in some(grid):
        pinned = painted(grid, grid.pinned(key)) > 0
        near = [
            TileKey(0, row, col)
            for row in range(max(key.row - 1, 0), min(key.row + 2, grid.rows.count))
            for col in range(max(key.col - 1, 0), min(key.col + 2, grid.cols.count))
            if (row, col) != (key.row, key.col)
        ]
        before = chain(grid, key)
        for other in near:
            if other not in before:
                assert key in chain(grid, other)
            else:
                assert pinned[
                    (painted(grid, [grid.owned(other)]) * painted(grid, [grid.box(key)])) > 0
                ].all()


@given(grids())
def test_all_of_a_window_but_the_margin_is_settled(grid: TileGrid):
    for axis in (grid.rows, grid.cols):
        for i in range(axis.count):
            lo, hi = axis.settled(i)
            assert axis.start(i) <= lo <= axis.owned(i)[0] < axis.owned(i)[1] <= hi <= axis.end(i)
            assert lo - axis.start(i) <= axis.margin
            assert axis.end(i) - hi <= axis.margin


@given(grids())
def test_cells_never_have_two_owners(grid: TileGrid):
    for axis in (grid.rows, grid.cols):
        edges = {axis.owned(i)[0] for i in range(axis.count)} | {axis.length}
        assert all(
            (edge + grid.cell_offset) % grid.cell == 0 or edge in (0, axis.length) for edge in edges
        )


@given(grids())
@pytest.mark.slow
def test_children_are_those_whose_parent_it_is(grid: TileGrid):
    for key in grid.keys():
        assert all(key in grid.parents(child) for child in grid.children(key))
        assert all(key in grid.children(parent) for parent in grid.parents(key))


@given(grids(), st.integers(0, 10_000))
def test_owner_is_the_inverse_of_owned(grid: TileGrid, position: int):
    for axis in (grid.rows, grid.cols):
        lo, hi = axis.owned(axis.owner(position % axis.length))
        assert lo <= position % axis.length < hi


@given(grids(), st.integers(0, 10_000), st.integers(1, 60))
def test_carriers_reach_every_owner_of_an_interval(grid: TileGrid, start: int, length: int):
    for axis in (grid.rows, grid.cols):
        lo = start % axis.length
        hi = min(lo + length, axis.length)
        reached = set()
        for i in axis.carriers(lo, hi):
            steps = [i]
            while steps:
                reached.add(steps[-1])
                steps += axis.parents(steps.pop())
        assert {axis.owner(p) for p in range(lo, hi)} <= reached


def test_centre_order_halves_the_longest_chain():
    raster = TileGrid.build(0, 4096, 4096, 256, 128, "raster")
    centre = TileGrid.build(0, 4096, 4096, 256, 128, "centre")
    assert raster.longest_chain == 2 * 31 - 1
    assert centre.longest_chain == 31
    assert replace(raster, corners=True).longest_chain == 3 * 30 + 1


@pytest.mark.parametrize("order", ["bridge", "colour"])
def test_orders_of_many_roots_are_refused_where_measurements_overlap(order):
    with pytest.raises(PlanError, match="choose --order raster or centre"):
        TileGrid.build(0, 640, 640, 64, 48, order, 8, corners=True)


def test_starts_follow_the_paper_with_a_last_tile_at_the_edge():
    axis = AxisGrid.build(600, 256, 128)
    assert [axis.start(i) for i in range(axis.count)] == [0, 128, 256, 344]


def test_half_the_overlap_as_margin_makes_cells_as_large_as_the_stride():
    grid = TileGrid.build(0, 1024, 1024, 256, 192, "centre", margin=32)
    assert grid.cell == 192


def test_a_margin_above_half_the_overlap_is_refused():
    with pytest.raises(PlanError, match="choose 0 to 64"):
        TileGrid.build(0, 512, 512, 256, 128, "raster", margin=65)


@pytest.mark.parametrize("stride", [0, 256, 300])
def test_a_stride_without_overlap_is_refused(stride: int):
    with pytest.raises(PlanError, match="does not overlap"):
        TileGrid.build(0, 512, 512, 256, stride, "raster")


@given(grids())
def test_windows_pin_exactly_what_their_ancestors_own_within_them(grid: TileGrid):
    for axis in (grid.rows, grid.cols):
        for i in range(axis.count):
            ancestors = set()
            steps = [i]
            while steps:
                ancestors.add(steps[-1])
                steps += axis.parents(steps.pop())
            inside = range(axis.start(i), axis.end(i))
            lo, hi = axis.settled(i)
            assert [p for p in inside if axis.owner(p) in ancestors] == list(range(lo, hi))


@given(grids())
def test_ranks_count_the_longest_chain_and_lead_from_lower_to_higher(grid: TileGrid):
    graph = TaskGraph([grid], 2)

    def depth(key: TileKey) -> int:
        return graph.place(graph.number(key))[1]

    for key in grid.keys():
        chains = [depth(parent) + 1 for parent in grid.parents(key)]
        assert depth(key) == max(chains, default=0)
    assert grid.roots == [key for key in grid.keys() if not grid.parents(key)]
    assert grid.longest_chain == 1 + max(map(depth, grid.keys()))


@given(grids())
def test_the_last_tile_waits_for_the_one_before_it(grid: TileGrid):
    for axis in (grid.rows, grid.cols):
        if axis.count > 1:
            assert axis.parents(axis.count - 1) == [axis.count - 2]


@given(st.integers(1, 300), st.integers(1, 20))
def test_the_depth_of_bridge_and_colour_does_not_grow_with_the_image(extra: int, block: int):
    side = 256 + 192 * extra - 64
    bridge = TileGrid.build(0, side, side, 256, 192, "bridge", 32, block)
    colour = TileGrid.build(0, side, side, 256, 192, "colour", 32)
    assert bridge.longest_chain <= 1 + 2 * (1 + block // 2)
    assert colour.longest_chain == 3
    assert TileGrid.build(0, side, side, 256, 192, "bridge", 32, 1) == colour


@given(st.integers(1, 300), st.integers(1, 20))
def test_bridges_are_pinned_on_both_sides_and_blocks_are_not(extra: int, block: int):
    axis = AxisGrid.build(256 + 192 * extra - 64, 256, 192, 32, "bridge", block)
    for i in range(axis.count):
        (lo, hi), (first, last) = axis.settled(i), axis.owned(i)
        assert (lo < first and last < hi) == (len(axis.parents(i)) == 2)
    bridges = [i for i in range(axis.count) if len(axis.parents(i)) == 2]
    assert {after - before for before, after in pairwise(bridges)} <= {block + 1}


@pytest.mark.parametrize("order", ["bridge", "colour"])
def test_bridges_with_nothing_to_restore_are_refused(order: str):
    with pytest.raises(PlanError, match="choose a stride above 128 or a margin above 0"):
        TileGrid.build(0, 2048, 2048, 256, 128, order, block=2)
    assert TileGrid.build(0, 2048, 2048, 256, 128, order, 64, 2).count
