"""What a batch is told: patterns, manifests, shares; and how its crew shares workers,
without any.
"""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.batches.batch_manifest import Entry, read_entries
from cluster.batches.batch_settings import BatchSettings, sort_out
from cluster.batches.folder import BatchFolder
from cluster.batches.shares import array_share, parse_share, share_of
from cluster.commands.batch import batch
from cluster.commands.submit_arguments import command_values
from orchestrator.errors import PlanError
from orchestrator.events import BatchCommitted, WorkerLost, WorkerStarted
from orchestrator.monitoring.utilisation import KEPT, Usage, cover
from orchestrator.run.batch_records import ImageRecord, ImageRecords, read_records
from orchestrator.scheduling.dispatcher import Dispatcher, Tiles
from orchestrator.scheduling.frontier import Frontier
from orchestrator.tiling.grid import TileGrid
from orchestrator.tiling.task_graph import TaskGraph
from storage.run_store.run_lock import RunLock


def entries(count):
    return [
        Entry(f"line {i}", {"path": f"/in/{i}.png", "output": f"{i}.zarr"}) for i in range(count)
    ]


def names(found):
    return [entry.name for entry in found]


def test_a_pattern_keeps_the_folders_below_its_first_wildcard(tmp_path):
    for place in ("a/red.tif", "b/red.tif", "b/notes.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    found = read_entries([f"{tmp_path}/*/red.tif"], {"scale": 2})
    assert names(found) == ["a/red.zarr", "b/red.zarr"]
    assert found[0].spec().input.path == str(tmp_path / "a/red.tif")
    assert found[0].spec().task.scale == 2
    assert names(read_entries([f"{tmp_path}/a/red.tif"], {})) == ["red.zarr"]
    with pytest.raises(PlanError, match=r"output red.zarr is that of .* too"):
        read_entries([f"{tmp_path}/a/red.tif", f"{tmp_path}/b/red.tif"], {})
    for folders in (f"{tmp_path}/a", f"{tmp_path}/a/", f"{tmp_path}/?"):
        with pytest.raises(
            PlanError, match=r'no image but a folder; .* for example ".*[a?]/\*.tif"'
        ):
            read_entries([folders], {})
    with pytest.raises(PlanError, match="no such image"):
        read_entries([f"{tmp_path}/*/blue.tif"], {})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_manifest_overrides_the_command_line_image_by_image(suffix, tmp_path):
    path = tmp_path / f"images{suffix}"
    if suffix == ".csv":
        path.write_text(
            "input, mask, task, sigma, operator-arg\n"
            "a.png,m.png,inpaint,10%,\n s3://b/c.tif,,,,g=1 h=2\n"
        )
    else:
        rows = [
            {"input": "a.png", "mask": "m.png", "task": "inpaint", "sigma": "10%"},
            {"input": "s3://b/c.tif", "operator_arg": ["g=1", "h=2"], "mask": None},
        ]
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    first, second = read_entries([str(path)], {"sigma": "5", "steps": 3})
    assert first.spec().input.path == str(tmp_path / "a.png")
    assert first.spec().input.mask == str(tmp_path / "m.png")
    assert (first.spec().task.name, first.spec().task.sigma_unit) == ("inpaint", "fraction")
    assert (second.spec().task.sigma, second.spec().sampling.steps) == (5, 3)
    assert second.spec().input.path == "s3://b/c.tif"
    assert second.spec().task.operator_args == {"g": "1", "h": "2"}
    assert names([first, second]) == ["a.zarr", "c.zarr"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "input,scle\na.png,4\n",
            r"images.csv line 2: unknown column 'scle'; did you mean 'scale'\?",
        ),
        ("input,workers\na.png,4\n", "workers is the whole batch's; give it on the command line"),
        ("input,scale\na.png,four\n", r"images.csv line 2: the options: task.scale = 'four'"),
        ("scale\n4\n", "line 2 has no input"),
        ("input,scale\na.png\n", "another number of values"),
        ("input\n", "names no image"),
        ("input,output\na.png,../b\n", r"'../b' is no name of a folder below OUTDIR"),
        ("input,output\na.png,batch-1-of-2.jsonl\n", "no name of a folder below OUTDIR"),
        ("input,output\na.png,b\nc.png,b/c\n", "output b/c lies within that of"),
        ("input\na.png\na.png\n", r"images.csv line 3: output a.zarr is that of .* line 2 too"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_with_its_line(text, message, tmp_path):
    path = tmp_path / "images.csv"
    path.write_text(text)
    with pytest.raises(PlanError, match=message) as refused:
        read_entries([str(path)], {})
    assert "\n" not in str(refused.value)


def test_what_a_batch_keeps_is_what_it_was_given(tmp_path):
    given = {
        "scale": 3,
        "channel": "0,2",
        "value_range": "0,4095",
        "label": 7,
        "region": ["0,0,8,8:builtin"],
    }
    before = [Entry("here", {**entry.given, **given}) for entry in entries(3)]
    folder = BatchFolder(tmp_path / "out")
    assert not folder.exists
    folder.make()
    folder.keep(before, {"window": 2})
    after, options = folder.load()
    assert options == {"window": 2}
    assert names(after) == names(before)
    assert [entry.spec() for entry in after] == [entry.spec() for entry in before]


def test_what_a_batch_keeps_holds_in_every_folder(tmp_path, monkeypatch):
    (tmp_path / "images.csv").write_text(
        "input,job,classifier,denoiser,region,blur,mask\n"
        'a.png,job.toml,,,"0,0,8,8:diffusers:net:3 8,8,16,16:builtin:1",gaussian:2,m.png\n'
        "b.png,,guide.pt,guided-diffusion:n.pt,,kernel.png,\n"
    )
    (tmp_path / "job.toml").write_text(
        'denoiser = "prior:own.safetensors"\n[guidance]\nclassifier = "c.pt"\n'
    )
    folder = BatchFolder(tmp_path / "out")
    folder.make()
    monkeypatch.chdir(tmp_path)
    folder.keep(read_entries(["images.csv"], {}), {})
    folder.root.joinpath("below").mkdir()
    monkeypatch.chdir(folder.root / "below")
    first, second = (entry.spec() for entry in folder.load()[0])
    assert first.denoiser == f"prior:{tmp_path}/own.safetensors"
    assert (first.input.mask, first.task.blur) == (f"{tmp_path}/m.png", "gaussian:2")
    assert first.guidance.classifier == f"{tmp_path}/c.pt"
    assert [r.denoiser for r in first.regions] == [f"diffusers:{tmp_path}/net", "builtin"]
    assert [r.label for r in first.regions] == [3, 1]
    assert second.denoiser == f"guided-diffusion:{tmp_path}/n.pt"
    assert (second.guidance.classifier, second.task.blur) == (
        f"{tmp_path}/guide.pt",
        f"{tmp_path}/kernel.png",
    )


@pytest.mark.slow
def test_an_image_with_a_region_is_done_once(tmp_path, cli, make_picture, write_picture):
    write_picture(tmp_path / "a.png", make_picture(24, 24))
    command = [
        "batch",
        tmp_path / "a.png",
        tmp_path / "out",
        "--executor",
        "serial",
        "--no-verify",
        "--scale",
        2,
    ]
    command += ["--tile", 32, "--stride", 16, "--levels", 1, "--steps", 2]
    records = tmp_path / "out" / "batch.jsonl"
    first = cli(*command, "--region", "1,1,16,16:analytic:")
    assert first.code == 0, first.err
    again = cli(*command, "--region", "1,1,16,16:analytic:")
    assert (again.code, "no worker was needed" in again.out) == (0, True), again.err
    assert len(records.read_text().splitlines()) == 1
    records.unlink()
    resumed = cli("resume", tmp_path / "out")
    assert resumed.code == 0, resumed.err
    moved = cli(*command, "--region", "1,1,16,32:analytic:")
    assert moved.code == 2
    assert "cannot resume: regions" in moved.err


def test_a_batch_is_not_put_into_an_image(tmp_path):
    (tmp_path / "out" / ".gigarestore").mkdir(parents=True)
    (tmp_path / "out" / ".gigarestore" / "job.toml").touch()
    with pytest.raises(PlanError, match="is the output of one image"):
        BatchFolder(tmp_path / "out").make()


def test_a_batch_may_grow_but_forgets_no_image_unless_told(tmp_path):
    folder = BatchFolder(tmp_path / "out")
    folder.make()
    folder.keep(entries(2), {})
    folder.keep(entries(3), {})
    moved = [Entry("line 0", {"path": "/elsewhere/0.png", "output": "0.zarr"}), *entries(3)[1:]]
    for other in (entries(2), moved):
        with pytest.raises(PlanError, match="is a batch of other images"):
            folder.keep(other, {"window": 9})
        assert folder.load()[1] == {}
        assert len(folder.load()[0]) == 3
    folder.keep(moved, {"window": 9}, overwrite=True)
    assert folder.load()[0][0].given["path"] == "/elsewhere/0.png"


def test_a_batch_that_is_refused_changes_nothing_of_the_one_that_was_begun(tmp_path, cli):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").touch()
    out = tmp_path / "out"
    command = ["batch", tmp_path / "a.png", out]
    assert cli(*command, "--share", "2/2").code == 2
    assert cli(*command, "--address", "127.0.0.1:1").code == 2
    assert not out.exists()
    folder = BatchFolder(out)
    folder.make()
    folder.keep(read_entries([str(tmp_path / "a.png")], {}), {})
    before = folder.manifest.read_bytes()
    other = ["batch", tmp_path / "b.png", out, "--executor", "serial"]
    with RunLock(folder.lock(None)):
        done = cli(*other, "--overwrite")
        assert "another run works here" in done.err
    refused = cli(*other)
    assert refused.code == 2
    assert "is a batch of other images" in refused.err
    assert folder.manifest.read_bytes() == before
    assert not (out / "batch.jsonl").exists()


@given(st.integers(0, 20), st.integers(1, 25))
def test_shares_are_disjoint_and_whole(images, count):
    shares = [names(share_of(entries(images), (i, count))) for i in range(1, count + 1)]
    assert sorted(name for share in shares for name in share) == sorted(names(entries(images)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "-1/4"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(PlanError, match="is no share"):
        parse_share(text)


def test_a_slurm_task_takes_its_share():
    array = {
        f"SLURM_ARRAY_TASK_{n}": v
        for n, v in {"ID": "7", "COUNT": "3", "MIN": "3", "MAX": "7"}.items()
    }
    assert array_share({**array, "SLURM_ARRAY_TASK_STEP": "2"}) == (3, 3)
    with pytest.raises(PlanError, match="without gaps"):
        array_share(array)
    with pytest.raises(PlanError, match="SLURM_ARRAY_TASK_ID"):
        array_share({})


def test_a_torn_record_is_left_out_and_harms_no_other(tmp_path):
    path = tmp_path / "batch.jsonl"
    first = ImageRecord(image="a", input="a.png", state="failed", error="why", size=(3, 4))
    ImageRecords(path, {}).append(first)
    with path.open("ab") as file:
        file.write(b'{"image": "b", "inp')
    later = ImageRecord(image="a", input="a.png", state="published")
    ImageRecords(path, {}).append(later)
    assert list(read_records(path)) == [first, later]
    assert BatchFolder(tmp_path).all_records()["a"] == later


def test_overlapping_batches_of_a_worker_count_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    usage = Usage()
    assert usage.share is None
    for worker in ("a", "b", "a", "b"):  # two runs that share both workers
        usage(WorkerStarted(worker=worker, device="cpu"))
    now[0] = 110.0
    usage(BatchCommitted(worker="a", keys=((0, 0, 0),), seconds=6.0, nfe=2, ended=110.0))
    usage(WorkerLost(worker="b", cause="why"))
    now[0] = 115.0  # it is told of later than it ended
    usage(BatchCommitted(worker="a", keys=((0, 0, 1),), seconds=5.0, nfe=2, ended=112.0))
    assert (usage.busy, usage.nfe, usage.tiles, usage.workers, usage.seconds) == (
        8.0,
        4,
        2,
        2,
        12.0,
    )
    assert usage.share == pytest.approx(8 / 22)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_a_worker_that_is_never_idle_counts_whole_in_whatever_order_runs_tell_of_it(
    runs, most, rng
):
    """Each run tells of its own batches in order, of several at once, and none knows what the
    others tell.
    """
    usage = Usage()
    left = {run: [n for n, other in enumerate(runs) if other == run] for run in set(runs)}
    while any(left.values()):
        run = rng.choice([run for run, batches in left.items() if batches])
        told = left[run][:most]
        left[run] = left[run][most:]
        for number in told:
            ended = 100.0 + 0.5 * (number + 1)
            usage(
                BatchCommitted(worker="a", keys=((0, 0, number),), seconds=0.5, nfe=1, ended=ended)
            )
    assert usage.busy == pytest.approx(0.5 * len(runs))


def test_a_worker_with_many_pauses_counts_without_them_in_bounded_memory():
    spans = []
    found = 0.0
    for number in range(10 * KEPT):
        found += cover(spans, (2.0 * number, 2.0 * number + 1.0))
        found += cover(spans, (2.0 * number + 0.5, 2.0 * number + 1.0))
    assert found == pytest.approx(10 * KEPT)
    assert len(spans) == KEPT


def test_batches_that_are_told_of_together_all_count():
    now = time.time()
    usage = Usage()
    usage(WorkerStarted(worker="a", device="cpu"))
    for number in range(5):
        batch = BatchCommitted(
            worker="a",
            keys=((0, 0, number),),
            seconds=100.0,
            nfe=1,
            ended=now + 100.0 * (number + 1),
        )
        usage(batch)
    assert usage.busy == pytest.approx(500.0)
    assert usage.share == pytest.approx(1.0, abs=0.05)


def graph(rows, cols, order="raster"):
    return TaskGraph([TileGrid.build(0, 64 + 48 * rows, 64 + 48 * cols, 64, 48, order)], 2)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
@pytest.mark.slow
def test_runs_that_share_a_crew_all_end_and_each_only_where_it_is_known(shapes, workers, most, rng):
    """Any order of reports, failures, workers that open a run late or are kept apart: all tiles
    run, suspects alone.
    """
    crew = Dispatcher(most)
    runs = [Tiles(Frontier(graph(*shape)), {rng.randrange(workers)}) for shape in shapes]
    for worker in range(workers):
        crew.join(worker)
    sent = []
    failures = 3
    while not all(run.frontier.finished for run in runs):
        rng.choice(runs).opened.add(rng.randrange(workers))
        apart = {worker for worker in range(workers) if sent and rng.random() < 0.3}
        while turn := crew.turn(runs, workers, apart):
            run, worker, size = turn
            assert worker in run.opened
            assert worker not in apart
            assert crew.busy(worker) == any(w == worker for _, w, *_ in sent)
            suspect = run.frontier.suspects > 0
            keys = run.frontier.take(size)
            assert 0 < len(keys) <= most
            crew.sent(worker, len(keys), suspect=suspect)
            sent.append((run, worker, keys, suspect))
            mine = [alone for _, w, _, alone in sent if w == worker]
            assert len(mine) == 1 or not any(mine), "a suspect has company"
        assert sent, "nothing runs although tiles are left"
        run, worker, keys, _ = sent.pop(rng.randrange(len(sent)))
        crew.back(worker, len(keys))
        if failures and rng.random() < 0.2:
            failures -= 1
            crew.failed(run, worker, keys)
            run.frontier.failed(keys, "a try")
        else:
            crew.done(run, keys)
            run.frontier.committed(keys)


def test_the_oldest_run_goes_first_and_the_next_fills_what_it_leaves_idle():
    crew = Dispatcher(1)
    workers = ["a", "b", "c"]
    for worker in workers:
        crew.join(worker)
    old, new = (Tiles(Frontier(graph(3, 3)), workers) for _ in range(2))
    turns = []
    while turn := crew.turn([old, new], 3):
        run, worker, size = turn
        crew.sent(worker, len(run.frontier.take(size)))
        turns.append((run is old, worker))
    assert turns == [(True, "a"), (False, "b")], "each has one tile that waits for nobody"


def test_a_batch_that_older_code_began_goes_on(tmp_path):
    # It named tiles per call `batch`, as today, and kept options that there are no longer.
    kept = {"window": 2, "verify": False, "shared": {"batch": 4, "batching": "continuous"}}
    settings = BatchSettings.kept(kept)
    assert settings == BatchSettings(window=2, verify=False, shared={"batch": 4})
    assert settings.but(batch=8).shared == {"batch": 8}


def test_tiles_per_call_are_given_by_their_name_of_today_and_by_that_of_old(tmp_path):
    for words in (["--batch-size", "3"], ["--batch", "3"]):
        values = command_values(batch, ["a.png", "out", *words])
        assert sort_out(values)[1].shared == {"batch": 3}
    for column in ("batch", "batch_size", "batch-size"):
        (tmp_path / "m.csv").write_text(f"input,{column}\na.png,4\n")
        with pytest.raises(PlanError, match="is the whole batch's"):
            read_entries([str(tmp_path / "m.csv")], {})


def test_a_share_is_given_by_its_name_of_today_and_by_that_of_old(tmp_path, cli):
    (tmp_path / "m.csv").write_text("input\na.png\n")
    for flag in ("--share", "--shard"):
        ended = cli("batch", tmp_path / "m.csv", tmp_path / "out", flag, "3/2")
        assert ended.code == 2
        assert "'3/2' is no share" in ended.err
