"""A worker that reads ahead and runs out of memory: the run's bytes stay the same."""

import random
import sys
from concurrent.futures import FIRST_COMPLETED, wait
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import TileError
from orchestrator.events import BatchCommitted, BatchFailed, BatchHalved, WorkerStarted
from orchestrator.planning.resolve import plan_job
from orchestrator.ray_backend.executor import RayExecutor
from orchestrator.run.lifecycle import start
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.scheduling.dispatcher import Dispatcher, Tiles
from orchestrator.scheduling.frontier import QUARANTINE_AFTER, Frontier
from orchestrator.tiling.grid import TileGrid, TileKey
from orchestrator.tiling.task_graph import TaskGraph
from orchestrator.worker.batch_request import BatchCall
from orchestrator.worker.pipeline import Pipeline
from orchestrator.worker.worker import Worker


class Piped:
    """Run tiles on pipelines in this process, batches of any size, several under way in each."""

    name = "piped"

    def __init__(self, seed, workers=1, most=3):
        self.rng = random.Random(seed)
        self.workers = workers
        self.most = most
        self.under_way = 0

    def execute(self, session):
        workers = [Worker(session.run_dir.root, session.plan) for _ in range(self.workers)]
        pipelines = [Pipeline() for _ in workers]
        pairs = list(zip(pipelines, workers, strict=True))
        running = {}
        try:
            while session.frontier.ready or running:
                while session.frontier.ready and self.rng.random() < 0.9:
                    keys = session.frontier.take(self.rng.randint(1, self.most))
                    self.rng.shuffle(keys)
                    pipeline, worker = self.rng.choice(pairs)
                    running[pipeline.submit(worker, keys)] = keys
                self.under_way = max(self.under_way, len(running))
                for future in (
                    wait(running, timeout=60, return_when=FIRST_COMPLETED).done if running else ()
                ):
                    keys = running.pop(future)
                    if future.exception() is None:
                        session.committed_all([("piped", future.result())])
                    else:
                        session.failed("piped", keys, str(future.exception()))
        finally:
            for pipeline in pipelines:
                pipeline.close()


@pytest.fixture(scope="module")
def masked(tmp_path_factory, make_picture, write_picture):
    """A picture of 40x44 px, a mask that knows three quarters of it, and a larger picture."""
    folder = tmp_path_factory.mktemp("masked")
    pixels = make_picture(40, 44)
    known = random.Random(3).choices([0, 255], [1, 3], k=40 * 44)
    mask = np.array(known, np.uint8).reshape(1, 40, 44)
    return (
        write_picture(folder / "in.png", pixels),
        write_picture(folder / "mask.png", mask),
        write_picture(folder / "large.png", make_picture(56, 60)),
    )


def jobs(masked, small):
    source, mask, large = masked
    known = {"path": str(source), "mask": str(mask)}
    travel = {"steps": 3, "travel": (1, 2)}
    return {
        "ddnm": (small, {}),
        "time travel": (small, {"sampling": travel}),
        "repaint": (
            None,
            {"task": {"name": "inpaint"}, "input": known, "sampling": {"method": "repaint"}},
        ),
        "dps": (small, {"sampling": {"method": "dps"}}),
        "ddrm": (small, {"sampling": {"method": "ddrm"}, "tiling": {"levels": 1}}),
        "noise": (
            source,
            {"task": {"name": "denoise", "sigma": 20}, "sampling": {"intent": "faithful"}},
        ),
        "blur": (
            large,
            {
                "task": {"name": "deblur", "blur": "uniform:5"},
                "tiling": {"levels": None, "order": "centre"},
            },
        ),
    }


NAMES = ("ddnm", "time travel", "repaint", "dps", "ddrm", "noise", "blur")


@pytest.mark.parametrize(
    "name",
    [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])],
)
@pytest.mark.slow
def test_pipelines_give_the_serial_bytes_however_tiles_meet(
    name, masked, small, job, serially, tmp_path, published_files
):
    source, options = jobs(masked, small)[name]
    serially(job(source, tmp_path / "serial", **options))
    expected = published_files(tmp_path / "serial")
    under_way = []
    # One worker that takes single tiles is the plainest case: once is enough.
    for seed in range(2) if name == NAMES[0] else [1]:
        out = tmp_path / f"piped-{seed}"
        executor = Piped(seed, workers=1 + seed, most=1 + seed)
        start(job(source, out, **options), executor)
        assert published_files(out) == expected, f"seed {seed}"
        under_way.append(executor.under_way)
    assert max(under_way) > 1, "nothing ever overlapped"


# What a network has answered counts for as long as somebody holds it: as memory does.
NETWORK = """
import weakref, torch

class Network:
    tile = 32
    room = {room}

    def __init__(self):
        self.held = []

    def __call__(self, x_t, t):
        self.held = [answer for answer in self.held if answer() is not None]
        if len(self.held) + len(x_t) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        answer = 0.7 * x_t + 0.0001 * t[:, None, None, None]
        self.held.append(weakref.ref(answer))
        return answer
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Write a user's network for so many tiles at a time and return its reference."""
    monkeypatch.chdir(tmp_path)  # where a user's module is looked for, in Ray's workers too
    monkeypatch.syspath_prepend(tmp_path)

    def write(room):
        (tmp_path / f"room_of_{room}.py").write_text(dedent(NETWORK).format(room=room))
        monkeypatch.delitem(sys.modules, f"room_of_{room}", raising=False)
        return f"module:room_of_{room}:Network"

    return write


def published(events):
    return [len(event.keys) for event in events if isinstance(event, BatchCommitted)]


def test_a_batch_that_does_not_fit_is_halved_and_the_driver_told(
    network, small, job, serially, tmp_path, published_pixels
):
    wide = {"tiling": {"levels": 1, "order": "colour", "stride": 24}}
    serially(job(small, tmp_path / "roomy", denoiser=network(99), **wide))
    events = []
    spec = job(
        small,
        tmp_path / "tight",
        denoiser=network(2),
        run={"executor": "serial", "batch": 4},
        **wide,
    )
    start(spec, SerialExecutor(), [events.append])
    assert (published_pixels(tmp_path / "tight") == published_pixels(tmp_path / "roomy")).all()
    told = [event for event in events if isinstance(event, BatchHalved)]
    assert [event.batch for event in told] == [2]
    after = events[events.index(told[0]) :]
    assert max(published(events)) > 2
    assert max(published(after)) == 2
    assert not [event for event in events if isinstance(event, BatchFailed)]


@pytest.mark.slow
def test_a_pipeline_short_of_memory_gives_the_same_bytes(
    network, small, job, serially, tmp_path, published_pixels
):
    serially(job(small, tmp_path / "roomy", denoiser=network(99)))
    start(job(small, tmp_path / "tight", denoiser=network(1)), Piped(5, most=4))
    assert (published_pixels(tmp_path / "tight") == published_pixels(tmp_path / "roomy")).all()


@pytest.mark.slow
def test_a_tile_that_does_not_fit_alone_has_failed(network, small, job, tmp_path):
    events = []
    with pytest.raises(TileError, match="out of memory"):
        start(
            job(small, tmp_path / "out", denoiser=network(0)),
            Piped(1),
            [events.append],
        )
    assert len([event for event in events if isinstance(event, BatchFailed)]) == QUARANTINE_AFTER


@pytest.mark.ray
def test_ray_workers_short_of_memory_are_sent_smaller_batches(
    network, small, job, serially, tmp_path, published_pixels
):
    wide = {"tiling": {"levels": 1, "order": "colour", "stride": 24}}
    serially(job(small, tmp_path / "roomy", denoiser=network(99), **wide))
    events = []
    spec = job(small, tmp_path / "tight", denoiser=network(1), **wide)
    start(spec, RayExecutor(1, 4), [events.append])
    assert (published_pixels(tmp_path / "tight") == published_pixels(tmp_path / "roomy")).all()
    assert [event.batch for event in events if isinstance(event, BatchHalved)][-1] == 1
    assert not [event for event in events if isinstance(event, BatchFailed)]
    assert published(events)[-1] == 1
    assert len([event for event in events if isinstance(event, WorkerStarted)]) == 1


@pytest.mark.slow
def test_levels_overlap_a_fine_tile_waits_for_the_coarser_ones_under_it_only(small, job, tmp_path):
    """Three levels: finer tiles are committed while coarser ones are left, each after all that it
    reads.
    """
    events = []
    spec = job(
        small,
        tmp_path / "out",
        task={"name": "sr", "scale": 8},
        tiling={"levels": 3, "order": "raster"},
    )
    start(spec, Piped(0, workers=2, most=1), [events.append])
    order = [
        tuple(key) for event in events if isinstance(event, BatchCommitted) for key in event.keys
    ]
    assert len(order) > 24
    coarse_left = {key for key in order if key[0] > 0}
    early = 0
    for key in order:
        coarse_left.discard(key)
        early += key[0] == 0 and bool(coarse_left)
    assert early > 0, "the finest level waited for a whole coarser one"
    graph = plan_job(spec).graph()
    finest = list(graph.grids[0].keys())
    for key in finest:
        needed = set()
        stack = [key]
        while stack:
            for before in graph.predecessors(stack.pop()):
                if before not in needed:
                    needed.add(before)
                    stack.append(before)
        place = {tuple(k): i for i, k in enumerate(order)}
        assert all(place[tuple(before)] < place[tuple(key)] for before in needed)
    coarser = sum(grid.count for grid in graph.grids[1:])
    assert 0 < len(graph.predecessors(finest[0])) < coarser


@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_a_crew_gives_no_worker_more_than_two_batches_and_a_suspect_one_of_its_own(
    workers, most, rng
):
    """Any order of reports, failures included: all tiles run, loads stay bounded, suspects run
    alone.
    """
    grid = TileGrid.build(0, 256 + 192 * 5, 256 + 192 * 7, 256, 192, "bridge", 32, 2)
    frontier = Frontier(TaskGraph([grid], 2))
    crew = Dispatcher(most)
    for worker in range(workers):
        crew.join(worker)
    run = Tiles(frontier, range(workers))
    sent = []
    poison = set()
    failures = 4
    while not frontier.finished:
        while turn := crew.turn([run], workers):
            _, worker, size = turn
            suspect = frontier.suspects > 0
            keys = frontier.take(size)
            assert 0 < len(keys) <= most
            crew.sent(worker, len(keys), suspect=suspect)
            sent.append((worker, keys, suspect))
            mine = [(k, s) for w, k, s in sent if w == worker]
            assert sum(len(k) for k, _ in mine) <= 2 * most
            assert len(mine) <= 2
            assert len(mine) == 1 or not any(s for _, s in mine), "a suspect has company"
        assert sent, "nothing runs although tiles are left"
        worker, keys, _ = sent.pop(rng.randrange(len(sent)))
        crew.back(worker, len(keys))
        if failures and rng.random() < 0.1:
            failures -= 1
            crew.failed(run, worker, keys)
            poison |= set(frontier.failed(keys, "a try"))
        else:
            crew.done(run, keys)
            frontier.committed(keys)
    assert not poison


def test_a_broken_worker_is_not_taken_for_a_poison_tile():
    """One of three workers fails at everything: no tile is given up, because others try it before
    it comes again.
    """
    grid = TileGrid.build(0, 256 + 192 * 3, 256 + 192 * 3, 256, 192, "colour", 32)
    frontier = Frontier(TaskGraph([grid], 2))
    crew = Dispatcher(2)
    run = Tiles(frontier, ("broken", "b", "c"))
    for worker in run.opened:
        crew.join(worker)
    sent = []
    while not frontier.finished:
        while turn := crew.turn([run], 3):
            _, worker, size = turn
            suspect = frontier.suspects > 0
            sent.append((worker, frontier.take(size)))
            crew.sent(worker, len(sent[-1][1]), suspect=suspect)
        sent.sort(
            key=lambda batch: batch[0] != "broken"
        )  # it is always the first to answer, so always free
        worker, keys = sent.pop(0)
        crew.back(worker, len(keys))
        if worker == "broken":
            crew.failed(run, worker, keys)
            assert frontier.failed(keys, "it is broken") == []
        else:
            crew.done(run, keys)
            frontier.committed(keys)


def test_a_poison_tile_is_tried_by_everybody_and_then_again():
    grid = TileGrid.build(0, 256, 256, 256, 192, "raster", 32)
    frontier = Frontier(TaskGraph([grid], 2))
    crew = Dispatcher(1)
    run = Tiles(frontier, ("a", "b"))
    for worker in run.opened:
        crew.join(worker)
    tried = []
    while turn := crew.turn([run], 2):
        _, worker, size = turn
        (key,) = frontier.take(size)
        crew.sent(worker, 1, suspect=True)
        crew.back(worker, 1)
        crew.failed(run, worker, [key])
        frontier.failed([key], "poison")
        tried.append(worker)
    assert frontier.given_up
    assert set(tried[:2]) == set(tried[2:]) == {"a", "b"}


def test_a_worker_with_less_memory_is_sent_less_and_told_once():
    grid = TileGrid.build(0, 256 + 192 * 9, 256 + 192 * 9, 256, 192, "colour", 32)
    frontier = Frontier(TaskGraph([grid], 2))
    crew = Dispatcher(8)
    crew.join("small")
    assert crew.limit("small", 2)
    assert not crew.limit("small", 2)
    assert not crew.limit("gone", 1)
    run = Tiles(frontier, ["small"])
    assert crew.turn([run], 1) == (run, "small", 2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "leave", "sent", "suspect", "back"]), st.sampled_from("abc")
        )
    )
)
def test_all_are_supplied_while_every_worker_has_two_batches_and_none_can_be_given_another(doings):
    crew = Dispatcher(4)
    batches = {}
    for what, worker in doings:
        if what == "join" and worker not in batches:
            crew.join(worker)
            batches[worker] = 0
        elif what == "leave":
            crew.leave(worker)
            batches.pop(worker, None)
        elif what in ("sent", "suspect") and batches.get(worker, 2) < (
            1 if what == "suspect" else 2
        ):
            crew.sent(worker, 1, suspect=what == "suspect")
            batches[worker] += 1
        elif what == "back" and batches.get(worker):
            crew.back(worker, 1)
            batches[worker] -= 1
        assert crew.supplied == (bool(batches) and min(batches.values()) == 2)
        if crew.supplied:
            grid = TileGrid.build(0, 256 + 192 * 9, 256 + 192 * 9, 256, 192, "colour", 32)
            assert crew.turn([Tiles(Frontier(TaskGraph([grid], 2)), "abc")], len(batches)) is None


@given(
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.lists(st.tuples(*[st.integers(0, 2**62)] * 3), min_size=1).map(tuple),
)
def test_a_call_says_the_same_when_it_is_unpacked(slot, run, keys):
    call = BatchCall(slot, run, tuple(TileKey(*key) for key in keys))
    assert BatchCall.of(call.packed()) == call
