"""The frontier and the graph: pure state, any topological order, failure rules."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.scheduling.frontier import QUARANTINE_AFTER, SOLO_AFTER, Frontier
from orchestrator.tiling.axis import ORDERS
from orchestrator.tiling.grid import TileGrid, TileKey
from orchestrator.tiling.parallelism import critical_path, waves
from orchestrator.tiling.task_graph import TaskGraph


@st.composite
def graphs(draw: st.DrawFn) -> TaskGraph:
    order = draw(st.sampled_from(ORDERS))
    height, width = (64 * draw(st.integers(1, 6)) for _ in range(2))
    levels = draw(st.integers(1, 3))
    sizes = [(max(height >> k, 32), max(width >> k, 32)) for k in range(levels)]
    stride, margin = draw(st.sampled_from([(16, 0), (16, 4), (16, 8), (24, 0), (24, 4), (12, 8)]))
    if 2 * (stride + margin) <= 32 and order in ("bridge", "colour"):
        margin = (32 - stride) // 2
    block = draw(st.integers(1, 4))
    corners = order in ("raster", "centre") and draw(
        st.booleans()
    )  # of the finest level, where measurements may overlap
    shape = (32, stride, order, margin, block)
    grids = [
        TileGrid.build(k, h, w, *shape, corners=corners and k == 0)
        for k, (h, w) in enumerate(sizes)
    ]
    return TaskGraph(grids, 2)


def drain(frontier: Frontier, rng: random.Random) -> list[TileKey]:
    """Run to the end, committing in a random order; returns the order of commits."""
    running: list[TileKey] = []
    order: list[TileKey] = []
    while frontier.ready or running:
        running += frontier.take(rng.randint(1, 4))
        rng.shuffle(running)
        for _ in range(rng.randint(0, len(running))):
            key = running.pop()
            frontier.committed([key])
            order.append(key)
    return order


@given(graphs(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_tile_runs_once_and_after_its_predecessors(graph: TaskGraph, seed: int):
    order = drain(Frontier(graph), random.Random(seed))
    place = {key: i for i, key in enumerate(order)}
    assert len(place) == len(order) == graph.count
    assert all(place[before] < place[key] for key in order for before in graph.predecessors(key))


@given(graphs(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
@pytest.mark.slow
def test_coarser_tiles_under_the_footprint_are_committed_first(graph: TaskGraph, seed: int):
    committed: set[TileKey] = set()
    for key in drain(Frontier(graph), random.Random(seed)):
        if key.level + 1 < len(graph.grids):
            coarse = graph.grids[key.level + 1]
            y0, x0, y1, x1 = (side // 2 for side in graph.grids[key.level].box(key))
            owners = {
                (coarse.rows.owner(y), coarse.cols.owner(x))
                for y in range(y0, y1)
                for x in range(x0, x1)
            }
            assert all(TileKey(key.level + 1, row, col) in committed for row, col in owners)
        committed.add(key)


@given(graphs())
@settings(max_examples=40, deadline=None)
def test_successors_are_the_inverse_of_predecessors(graph: TaskGraph):
    for grid in graph.grids:
        for key in grid.keys():
            assert all(key in graph.predecessors(after) for after in graph.successors(key))
            assert all(key in graph.successors(before) for before in graph.predecessors(key))
            assert graph.fan_out(graph.number(key)) == len(graph.successors(key))
            assert graph.key(graph.number(key)) == key


@given(graphs(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_resume_runs_exactly_what_is_left(graph: TaskGraph, seed: int):
    rng = random.Random(seed)
    order = drain(Frontier(graph), rng)
    done = order[: rng.randint(0, len(order))]
    assert set(drain(Frontier(graph, done), rng)) == set(order) - set(done)


@given(graphs())
@settings(max_examples=30, deadline=None)
def test_critical_path_is_the_longest_chain(graph: TaskGraph):
    length: dict[TileKey, int] = {}
    for key in drain(Frontier(graph), random.Random(0)):
        length[key] = 1 + max((length[p] for p in graph.predecessors(key)), default=0)
    assert critical_path(graph.grids) == max(length.values())
    found = waves(graph.grids)
    sizes = Counter(length.values())
    assert (found.depth, found.tiles, found.peak) == (max(sizes), graph.count, max(sizes.values()))


@given(graphs(), st.lists(st.integers(1, 9), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_levels_may_weigh_differently_on_the_critical_path(graph: TaskGraph, weights: list[int]):
    weights = weights[: len(graph.grids)]
    length: dict[TileKey, int] = {}
    for key in drain(Frontier(graph), random.Random(0)):
        length[key] = weights[key.level] + max(
            (length[p] for p in graph.predecessors(key)), default=0
        )
    assert critical_path(graph.grids, weights) == max(length.values())


def single() -> Frontier:
    return Frontier(TaskGraph([TileGrid.build(0, 96, 96, 32, 16, "raster")], 2))


def test_same_events_give_the_same_answers():
    assert drain(single(), random.Random(5)) == drain(single(), random.Random(5))


def test_a_failed_batch_returns_to_ready():
    frontier = single()
    keys = frontier.take(4)
    assert frontier.failed(keys, "worker died") == []
    assert frontier.ready == len(keys)
    assert frontier.take(4) == keys


def test_a_suspect_tile_runs_alone_and_is_given_up_at_last():
    frontier = single()
    (root,) = frontier.take(4)
    frontier.committed([root])
    for tries in range(1, QUARANTINE_AFTER + 1):
        keys = frontier.take(4)
        assert (len(keys) == 1) == (tries > SOLO_AFTER)
        poison = keys[0]
        rest = keys[1:]
        frontier.returned(rest)
        given_up = frontier.failed([poison], "boom")
        assert given_up == ([poison] if tries == QUARANTINE_AFTER else [])
    assert frontier.given_up == {poison: "boom"}
    drain(frontier, random.Random(1))
    assert frontier.stuck
    assert not frontier.finished


def test_deaths_in_company_and_lost_machines_never_give_a_tile_up():
    frontier = single()
    frontier.committed(frontier.take(4))
    for _ in range(SOLO_AFTER):
        keys = frontier.take(4)
        assert len(keys) > 1
        assert frontier.failed(keys, "worker died") == []
    assert frontier.suspects == len(keys)
    suspect = frontier.suspect
    for _ in range(10 * QUARANTINE_AFTER):
        assert frontier.suspect in keys, "a suspect whose worker was taken away is one still"
        taken = frontier.take(4)
        assert len(taken) == 1
        frontier.returned(taken)
    assert not frontier.given_up
    for _ in range(QUARANTINE_AFTER - SOLO_AFTER):
        while (taken := frontier.take(4)) != [suspect]:
            frontier.returned(taken)
        gone = frontier.failed(taken, "boom")
    assert gone == [suspect]


def test_reporting_a_tile_twice_is_refused():
    frontier = single()
    keys = frontier.take(1)
    frontier.committed(keys)
    with pytest.raises(ValueError, match="not running"):
        frontier.committed(keys)


@given(graphs(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
@pytest.mark.slow
def test_what_is_reported_releases_its_successors_and_is_done_when_it_is_recorded(
    graph: TaskGraph, seed: int
):
    frontier = Frontier(graph)
    rng = random.Random(seed)
    reported: list[TileKey] = []
    recorded = 0
    while keys := frontier.take(rng.randint(1, 4)):
        assert {before for key in keys for before in graph.predecessors(key)} <= set(reported)
        frontier.reported(keys)
        reported += keys
        if rng.random() < 0.3:  # some records reach the disk, in the order of the reports
            until = rng.randint(recorded, len(reported))
            frontier.committed(reported[recorded:until])
            recorded = until
        assert (frontier.done, frontier.recording) == (recorded, len(reported) - recorded)
        assert list(frontier.finished_keys()) == sorted(reported[:recorded], key=graph.number)
    assert len(reported) == graph.count
    for level, grid in enumerate(graph.grids):
        there = recorded == graph.count or all(key.level != level for key in reported[recorded:])
        assert frontier.all_done(level, range(grid.rows.count), range(grid.cols.count)) == there
    frontier.committed(reported[recorded:])
    assert frontier.finished


def test_a_batch_holds_tiles_of_one_level():
    graph = TaskGraph(
        [TileGrid.build(k, 256 >> k, 256 >> k, 32, 16, "centre") for k in range(3)], 2
    )
    frontier = Frontier(graph)
    rng = random.Random(3)
    while keys := frontier.take(rng.randint(1, 9)):
        assert len({key.level for key in keys}) == 1
        frontier.committed(keys)
    assert frontier.finished
