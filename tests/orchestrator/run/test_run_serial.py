"""Whole restorations in one process: the reference bytes, and everything that must not
change them.
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import PlanError, RunError, TileError
from orchestrator.events import (
    BatchCommitted,
    BatchFailed,
    DomainChecked,
    Staging,
    TileGivenUp,
    WorkerStarted,
)
from orchestrator.planning.estimate import disk_bytes
from orchestrator.planning.resolve import plan_job
from orchestrator.run.lifecycle import resume, start
from orchestrator.run.run_queue import RunQueue
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import Frontier
from orchestrator.worker.worker import Worker
from storage.box import Box
from storage.readers.reader_registry import open_image


class Shuffled:
    """Commit tiles in a random topological order, several of them begun before the first is
    committed.
    """

    name = "shuffled"

    def __init__(self, seed, batch=3):
        self.rng = random.Random(seed)
        self.batch = batch
        self.order = []

    def execute(self, session):
        worker = Worker(session.run_dir.root, session.plan)
        waiting = []
        while session.frontier.ready or waiting:
            while session.frontier.ready and self.rng.random() < 0.8:
                waiting.append(session.frontier.take(self.rng.randint(1, self.batch)))
            if not waiting:
                continue
            keys = waiting.pop(self.rng.randrange(len(waiting)))
            self.rng.shuffle(keys)
            report = worker.run(keys)
            self.order += report.keys
            session.committed("shuffled", report.keys, report.seconds, report.nfe)


class StopsAfter:
    """A listener that ends the driver after some commits, as Ctrl-C would."""

    def __init__(self, commits):
        self.left = commits

    def __call__(self, event):
        if isinstance(event, BatchCommitted):
            self.left -= len(event.keys)
            if self.left <= 0:
                raise KeyboardInterrupt


def resumed(root, **options):
    return resume(Path(root), SerialExecutor(), **options)


JOBS = {
    "detail": {},
    "faithful": {"sampling": {"intent": "faithful"}},
    "no margin": {"tiling": {"margin": 0}},
    "raster": {"tiling": {"order": "raster"}},
    "bridge": {"tiling": {"order": "bridge", "block": 2}},
    "colour": {"tiling": {"order": "colour"}},
    "paper": {"sampling": {"intent": "paper", "travel": (1, 2)}},
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, small, job, serially, published_files):
    """Return, for a name of JOBS, the published files of its serial run; each runs once."""
    known = {}

    def of(name):
        if name not in known:
            out = tmp_path_factory.mktemp("reference") / "out"
            outcome = serially(job(small, out, **JOBS[name]))
            assert len(outcome.plan.levels) == 2
            assert all(level.grid.count > 2 for level in outcome.plan.levels)
            known[name] = published_files(out)
        return known[name]

    return of


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.slow
def test_tiles_completing_in_any_order_give_the_same_bytes(
    name, reference, small, job, tmp_path, published_files
):
    executor = Shuffled(seed=sum(map(ord, name)))
    outcome = start(job(small, tmp_path / "out", **JOBS[name]), executor)
    assert sorted(executor.order) == sorted(serial_order(outcome.plan))
    assert executor.order != serial_order(outcome.plan)
    assert published_files(tmp_path / "out") == reference(name)


def serial_order(plan):
    frontier = Frontier(plan.graph())
    order = []
    while keys := frontier.take(1):
        frontier.committed(keys)
        order += keys
    return order


@pytest.mark.parametrize("name", ["detail", "faithful"])
@pytest.mark.slow
def test_batches_of_eight_give_the_same_bytes(
    name, reference, small, job, serially, tmp_path, published_files
):
    sizes = []
    serially(
        job(small, tmp_path / "out", run={"batch": 8}, **JOBS[name]),
        [lambda e: sizes.append(batch_size(e))],
    )
    assert max(sizes) > 3, "no batch was larger than one tile or two: the test shows nothing"
    assert published_files(tmp_path / "out") == reference(name)


def batch_size(event):
    return len(event.keys) if isinstance(event, BatchCommitted) else 0


@pytest.mark.slow
def test_jobs_that_differ_in_pixels_differ_in_bytes(reference):
    level = "0/c/0/0/0"
    assert len({reference(name)[level] for name in JOBS}) == len(JOBS)


@pytest.mark.slow
def test_the_seed_changes_a_sample_and_not_a_faithful_result(
    reference, small, job, serially, tmp_path, published_files
):
    for name, same in (("detail", False), ("faithful", True)):
        options = {**JOBS[name], "sampling": {**JOBS[name].get("sampling", {}), "seed": 7}}
        serially(job(small, tmp_path / name, **options))
        assert (published_files(tmp_path / name) == reference(name)) is same


@pytest.mark.parametrize("commits", [1, 5, 20])
@pytest.mark.slow
def test_a_run_that_stops_is_resumed_to_the_same_bytes(
    commits, reference, small, job, serially, tmp_path, published_files
):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        serially(job(small, out), [StopsAfter(commits)])
    assert not RunDir(out).published
    outcome = resumed(out)
    assert outcome.resumed == commits
    assert published_files(out) == reference("detail")


@pytest.mark.slow
def test_a_run_that_stops_at_every_tile_ends_with_the_same_bytes(
    reference, small, job, serially, tmp_path, published_files
):
    out = tmp_path / "out"
    tries = 0
    spec = job(small, out, **JOBS["faithful"])
    with pytest.raises(KeyboardInterrupt):
        serially(spec, [StopsAfter(1)])
    while not RunDir(out).published:
        tries += 1
        try:
            resumed(out, listeners=[StopsAfter(4)])
        except KeyboardInterrupt:
            continue
    assert tries > 5
    assert published_files(out) == reference("faithful")


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(small, job, serially, tmp_path):
    out = tmp_path / "out"
    serially(job(small, out, **JOBS["faithful"]))

    def files():  # but for the log and the number of the attempt
        found = [
            path for path in out.rglob("*") if path.is_file() and path.parent.name != "attempts"
        ]
        return {path: path.read_bytes() for path in found if path.name != "events.jsonl"}

    before = files()
    outcome = resumed(out)
    assert outcome.resumed == outcome.tiles
    assert files() == before


def interrupted(small, job, serially, out, commits=12, **options):
    with pytest.raises(KeyboardInterrupt):
        serially(job(small, out, **options), [StopsAfter(commits)])
    return RunDir(out)


@pytest.mark.slow
def test_a_journaled_tile_whose_cells_are_gone_is_made_again(
    reference, small, job, serially, tmp_path, published_files
):
    run = interrupted(small, job, serially, tmp_path / "out")
    lost = sorted((run.work(0) / "c").rglob("*"))
    lost = [path for path in lost if path.is_file()][:2]
    for path in lost:
        path.unlink()
    outcome = resumed(run.root)
    assert 12 - len(lost) <= outcome.resumed < 12
    assert published_files(run.root) == reference("detail")


@pytest.mark.slow
def test_all_cells_gone_begin_the_run_again(
    reference, small, job, serially, tmp_path, published_files
):
    run = interrupted(small, job, serially, tmp_path / "out")
    shutil.rmtree(run.state / "work")
    assert resumed(run.root).resumed == 0
    assert published_files(run.root) == reference("detail")


@pytest.mark.slow
def test_cells_without_a_journal_record_do_no_harm(
    reference, small, job, serially, tmp_path, published_files
):
    """A driver that dies between a tile's cells and its record: the tile is made again, and its
    cells stay.
    """
    run = interrupted(small, job, serially, tmp_path / "out")
    lines = run.journal.read_bytes().splitlines(keepends=True)
    run.journal.write_bytes(b"".join(lines[:-4]))
    assert resumed(run.root).resumed == 8
    assert published_files(run.root) == reference("detail")


@pytest.mark.slow
def test_a_torn_end_of_the_journal_is_dropped(
    reference, small, job, serially, tmp_path, published_files
):
    run = interrupted(small, job, serially, tmp_path / "out")
    whole = run.journal.read_bytes()
    run.journal.write_bytes(whole[:-3])
    assert resumed(run.root).resumed == 11
    assert published_files(run.root) == reference("detail")


@pytest.mark.slow
def test_a_journal_damaged_in_the_middle_is_refused(small, job, serially, tmp_path):
    run = interrupted(small, job, serially, tmp_path / "out")
    lines = run.journal.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"T ", b"T 1")
    run.journal.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="line 5 is damaged"):
        resumed(run.root)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def cell_files(run, level):
    return sorted(path for path in (run.work(level) / "c").rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_damaged_cell_that_a_neighbour_needs_fails_loudly_and_can_be_mended(
    reference, small, job, serially, tmp_path, published_files
):
    run = interrupted(small, job, serially, tmp_path / "out", commits=3)
    damaged = cell_files(run, 1)[-1]
    flip_a_byte(damaged)
    with pytest.raises(TileError, match="fails its crc32c checksum") as failed:
        resumed(run.root)
    assert str(damaged) in str(failed.value)
    assert not run.published
    damaged.unlink()
    resumed(run.root)
    assert published_files(run.root) == reference("detail")


@pytest.mark.slow
def test_a_damaged_cell_that_only_publishing_reads_fails_loudly_and_can_be_mended(
    reference, small, job, serially, tmp_path, published_files
):
    count = plan_job(job(small, tmp_path / "out")).graph().count
    run = interrupted(small, job, serially, tmp_path / "out", commits=count)
    damaged = cell_files(run, 0)[-1]
    flip_a_byte(damaged)
    with pytest.raises(RunError, match="fails its crc32c checksum"):
        resumed(run.root)
    assert not run.published
    damaged.unlink()
    resumed(run.root)
    assert published_files(run.root) == reference("detail")


@pytest.mark.slow
def test_a_tile_that_keeps_failing_ends_the_run_and_the_rest_is_kept(
    reference, small, job, tmp_path, published_files
):
    """Take the measurement away before the first tile (later ones find it in the read cache); put
    it back; resume.
    """
    out = tmp_path / "out"
    hidden = tmp_path / "hidden"
    events = []
    run = RunDir(out)

    def take_away(event):
        events.append(event)
        if isinstance(event, WorkerStarted):
            (run.staged_input / "c").rename(hidden)

    with pytest.raises(TileError, match="level 1 row") as failed:
        start(job(small, out), SerialExecutor(), [take_away])
    assert "\n" not in str(failed.value)
    given_up = [event.key for event in events if isinstance(event, TileGivenUp)]
    tries = [event.keys for event in events if isinstance(event, BatchFailed)]
    assert failed.value.key == given_up[0]
    assert all(tries.count((key,)) == 5 for key in given_up)
    assert not run.published
    hidden.rename(run.staged_input / "c")
    resumed(out)
    assert published_files(out) == reference("detail")


def test_a_failing_tile_stops_its_successors_and_nobody_else(small, job, tmp_path):
    """Damage the cell of one coarse corner: what does not depend on it is restored all the same."""
    out = tmp_path / "out"
    damaged = []
    committed = []
    run = RunDir(out)

    def damage(event):
        if isinstance(event, BatchCommitted):
            committed.extend(event.keys)
            if event.keys[0][0] == 1 and not damaged and len(committed) == 2:
                damaged.append(cell_files(run, 1)[-1])
                flip_a_byte(damaged[0])

    with pytest.raises(RunError):
        start(job(small, out), SerialExecutor(), [damage])
    graph = plan_job(job(small, out)).graph()
    assert 2 < len(committed) < graph.count
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    given_up = {tuple(event["key"]) for event in events if event["event"] == "TileGivenUp"}
    done = {tuple(key) for key in committed}
    every = [grid.key(i) for grid in graph.grids for i in range(grid.count)]
    left = [key for key in every if key not in done | given_up]
    assert given_up
    assert all(any(tuple(before) not in done for before in graph.predecessors(key)) for key in left)


@pytest.mark.slow
def test_the_event_log_tells_the_whole_story(small, job, serially, tmp_path):
    heard = []
    outcome = serially(job(small, tmp_path / "out", **JOBS["faithful"]), [heard.append])
    lines = [json.loads(line) for line in RunDir(tmp_path / "out").events.read_text().splitlines()]
    heard = [
        event for event in heard if not isinstance(event, Staging)
    ]  # told before there is a log
    assert [line["event"] for line in lines] == [type(event).__name__ for event in heard]
    assert lines[0]["event"] == "RunStarted"
    assert isinstance(heard[1], DomainChecked)
    assert isinstance(heard[2], WorkerStarted)
    assert lines[-1] | {"seconds": 0, "time": 0} == {
        "event": "RunFinished",
        "outcome": "published",
        "seconds": 0,
        "time": 0,
    }
    keys = [
        tuple(key) for line in lines if line["event"] == "BatchCommitted" for key in line["keys"]
    ]
    assert len(set(keys)) == len(keys) == outcome.tiles


@pytest.mark.slow
def test_a_finished_run_keeps_its_journal_and_gives_back_its_work(
    small, job, serially, tmp_path, unfinished_files
):
    out = tmp_path / "out"
    serially(job(small, out, **JOBS["faithful"]))
    kept = {path.name for path in RunDir(out).state.iterdir()}
    assert kept == {
        "job.toml",
        "journal",
        "events.jsonl",
        "lock",
        "attempts",
        "input.zarr",
        "domain.json",
    }
    assert not unfinished_files(out)


@pytest.mark.slow
def test_what_a_run_writes_stays_within_the_estimate(
    make_picture, write_picture, job, serially, tmp_path
):
    source = write_picture(tmp_path / "in.png", make_picture(64, 64))
    spec = job(
        source,
        tmp_path / "out",
        tiling={"tile": 64, "stride": 48},
        sampling={"steps": 1},
        run={"keep_work": True},
    )
    outcome = serially(spec)
    chunks = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name.isdecimal()]
    written = sum(path.stat().st_size for path in chunks)
    assert RunDir(tmp_path / "out").work(0).exists()
    assert 0.5 * disk_bytes(outcome.plan) < written < 1.3 * disk_bytes(outcome.plan)


def corners(height, width):
    return [Box(0, 0, 1, 1), Box(height - 1, width - 1, height, width)]


SIZES = [(1, 1), (1, 40), (33, 2), (7, 5), pytest.param((37, 29), marks=pytest.mark.slow)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.slow
def test_every_size_is_restored_and_agrees_with_its_measurement(
    size, make_picture, write_picture, job, serially, tmp_path
):
    image = make_picture(*size)
    source = write_picture(tmp_path / "in.png", image)
    serially(
        job(source, tmp_path / "out", sampling={"intent": "faithful"}, tiling={"levels": None})
    )
    pixels = open_image(tmp_path / "out").read(Box(0, 0, size[0] * 4, size[1] * 4))
    averages = pixels.reshape(3, size[0], 4, size[1], 4).mean(axis=(2, 4))
    assert np.abs(averages - image).max() <= 0.5


@pytest.mark.slow
def test_a_second_driver_on_one_output_is_refused(small, job, serially, tmp_path):
    out = tmp_path / "out"
    refused = []

    def try_another(event):
        if isinstance(event, BatchCommitted) and not refused:
            for attempt in (
                lambda: resumed(out),
                lambda: serially(job(small, out)),
                lambda: serially(job(small, out), overwrite=True),
            ):
                with pytest.raises(ValueError) as error:
                    attempt()
                refused.append(str(error.value))

    outcome = serially(job(small, out, **JOBS["faithful"]), [try_another])
    assert outcome.resumed == 0
    assert "another run works here" in refused[0]
    assert "unfinished run" in refused[1]
    assert "another run works here" in refused[2]


@pytest.mark.slow
def test_overwrite_replaces_a_result_and_nothing_else(
    small, job, serially, tmp_path, published_files
):
    out = tmp_path / "out"
    serially(job(small, out, **JOBS["faithful"]))
    first = published_files(out)
    with pytest.raises(PlanError, match="choose another OUT, or --overwrite"):
        serially(job(small, out))
    assert published_files(out) == first
    serially(job(small, out), overwrite=True)
    assert published_files(out) != first
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(PlanError, match="not a gigarestore output"):
        serially(job(small, foreign), overwrite=True)
    assert (foreign / "holiday.jpg").read_bytes() == b"precious"


@pytest.mark.slow
def test_overwrite_with_an_input_that_cannot_be_decoded_keeps_the_old_result(
    small, job, serially, tmp_path, published_files
):
    out = tmp_path / "out"
    damaged = bytearray(small.read_bytes())
    serially(job(small, out))
    first = published_files(out)
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "damaged.png").write_bytes(bytes(damaged))
    with pytest.raises(PlanError, match="fails its CRC"):
        serially(job(tmp_path / "damaged.png", out), overwrite=True)
    assert published_files(out) == first
    assert verify_run(out).passed
    assert not (out / ".gigarestore" / "incoming").exists()


@pytest.mark.slow
def test_a_changed_input_is_noticed_on_resume(
    small, job, serially, tmp_path, make_picture, write_picture
):
    source = Path(shutil.copy(small, tmp_path / "in.png"))
    run = interrupted(source, job, serially, tmp_path / "out")
    write_picture(source, make_picture(20, 24, seed=5))
    with pytest.raises(ValueError, match="cannot resume: input was"):
        resumed(run.root)


@pytest.mark.slow
def test_a_run_folder_can_be_moved(reference, small, job, serially, tmp_path, published_files):
    run = interrupted(small, job, serially, tmp_path / "out")
    moved = run.root.rename(tmp_path / "elsewhere")
    resumed(moved)
    assert published_files(moved) == reference("detail")
    assert not run.root.exists()


def test_an_interrupt_tells_the_runs_that_wait_for_their_turn_too():
    class Interrupted(SerialExecutor):
        def execute(self, session):
            raise KeyboardInterrupt

    arrivals = RunQueue()
    ended = [arrivals.put(None) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt):
        Interrupted().serve(arrivals)
    ended.append(arrivals.put(None))
    assert [type(one.exception(timeout=0)) for one in ended] == [KeyboardInterrupt] * 4
