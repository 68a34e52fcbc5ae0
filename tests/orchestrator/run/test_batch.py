"""Many images as one run: they share the workers, none stops another, and each has the bytes of a
run of its own.
"""

import csv
import json
import os
import re
import signal
import time
import uuid

import pytest

from orchestrator.event_log import read_events
from orchestrator.events import (
    BatchCommitted,
    RunFinished,
    RunStarted,
    WorkerLost,
    WorkerStarted,
)
from orchestrator.ray_backend.actors import RayWorker, WorkerKind
from orchestrator.ray_backend.executor import RayExecutor
from orchestrator.run.batch_records import ImageRecords
from orchestrator.run.many_images import Image, ImageBatch
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.opening_trials import ALONE
from storage.run_store.fencing import Attempt

pytestmark = pytest.mark.ray

NAMES = [f"im{number}" for number in range(8)]
BROKEN = "im3"
OPTIONS = [
    "--scale",
    4,
    "--tile",
    32,
    "--stride",
    16,
    "--levels",
    2,
    "--intent",
    "detail",
    "--steps",
    2,
]
PATIENCE = 180


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, make_picture, write_picture):
    """A folder of eight pictures, of which one ends too early."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(NAMES):
        path = write_picture(folder / f"{name}.png", make_picture(14, 16, seed=seed))
        if name == BROKEN:
            path.write_bytes(path.read_bytes()[:-100])
    return folder


@pytest.fixture(scope="module")
def references(tmp_path_factory, pictures, job, serially, published_files):
    """Return the published files of each whole picture's own serial run."""
    found = {}
    for name in NAMES:
        if name != BROKEN:
            out = tmp_path_factory.mktemp("reference") / "out"
            serially(job(pictures / f"{name}.png", out))
            found[name] = published_files(out)
    return found


def records_of(out):
    """Return the last record of each image by the name of its picture."""
    lines = [json.loads(line) for line in (out / "batch.jsonl").read_text().splitlines()]
    return {line["image"].removesuffix(".zarr"): line for line in lines}


def spans(out, names):
    """Return when each image's run began and ended, and the workers that committed tiles of it."""
    found = []
    for name in names:
        logged = list(read_events(RunDir(out / f"{name}.zarr").events))
        began = next(time for time, event in logged if isinstance(event, RunStarted))
        ended = next(time for time, event in logged if isinstance(event, RunFinished))
        workers = {event.worker for _, event in logged if isinstance(event, BatchCommitted)}
        found.append((began, ended, workers))
    return found


@pytest.mark.usefixtures("local_ray")
def test_seven_of_eight_images_are_restored_and_the_eighth_is_named(
    pictures, references, tmp_path, cli, published_files
):
    out = tmp_path / "out"
    done = cli("batch", f"{pictures}/*.png", out, *OPTIONS, "--workers", 2, "--open", 3)
    assert done.code == 1
    assert f"1 of 8 images are not restored ({BROKEN}.zarr: " in done.err.splitlines()[-1]
    assert f"gigarestore resume {out}" in done.err.splitlines()[-1]
    assert "8 images: " in done.out
    assert "7 published, 1 refused" in done.out.replace(
        "1 refused, 7 published", "7 published, 1 refused"
    )
    assert "2 workers, busy" in done.out.splitlines()[-1]
    found = records_of(out)
    assert sorted(found) == NAMES
    assert found[BROKEN]["state"] == "refused"
    assert "truncated" in found[BROKEN]["error"]
    assert not (out / f"{BROKEN}.zarr").exists()
    for name, reference in references.items():
        record = found[name]
        assert published_files(out / f"{name}.zarr") == reference
        assert (record["state"], record["error"], record["size"]) == ("published", None, [56, 64])
        assert record["consistency"]["holds"]
        assert record["consistency"]["max"] <= record["consistency"]["limit"]
        assert record["nfe"] == 2 * record["tiles"] > 0
        assert record["seam"] > 0
        assert record["busy_seconds"] > 0
    runs = spans(out, references)
    together = max(sum(b <= began < e for b, e, _ in runs) for began, _, _ in runs)
    assert 1 < together <= 3, "images that were open at the same time"
    assert len(set.union(*(workers for _, _, workers in runs))) == 2, "all images share one crew"

    again = cli("batch", f"{pictures}/*.png", out, *OPTIONS, "--workers", 2)
    assert again.code == 1
    assert "no worker was needed" in again.out
    assert records_of(out)["im0"] == found["im0"], "what is restored is kept"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_batch_whose_driver_died_goes_on(
    number, pictures, references, tmp_path, start_command, cli, published_files, marks
):
    """End the driver when one image is published and others are under way; resume elsewhere. No
    process of it stays.
    """
    out = tmp_path / "out"
    mark = uuid.uuid4().hex
    marks.append(mark)
    names = [name for name in NAMES if name != BROKEN][:4]
    paths = [pictures / f"{name}.png" for name in names]
    process = start_command(
        "batch", *paths, out, *OPTIONS, "--workers", 1, "--open", 2, cwd=tmp_path, marker=mark
    )
    deadline = time.monotonic() + PATIENCE
    while not (out / "batch.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no image was ever published"
        time.sleep(0.005)
    assert f"{out}: 4 images: " in cli("status", out).out
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == (130 if number == signal.SIGTERM else -number), err
    if number == signal.SIGTERM:
        assert f"gigarestore resume {out}" in err.splitlines()[-1]
    first = next(name for name, record in records_of(out).items() if record["state"] == "published")
    before = (out / f"{first}.zarr" / "zarr.json").stat()
    done = cli("resume", out, "--executor", "serial")
    assert done.code == 0, done.err
    assert (out / f"{first}.zarr" / "zarr.json").stat().st_mtime_ns == before.st_mtime_ns
    for name in names:
        assert published_files(out / f"{name}.zarr") == references[name]
    assert {record["state"] for record in records_of(out).values()} == {"published"}


class Watcher:
    """Look on, and act on an image's events; keeps what was told."""

    def __init__(self, act):
        self.act = act
        self.events = []
        self.records = {}

    def listener(self, image):
        def listen(event):
            self.events.append((image.name, event))
            self.act(self, image, event)

        return listen

    def recorded(self, record):
        self.records[record.image] = record


def images(names, pictures, job, out):
    """Return the images of a batch, as the command line would."""

    def image(name):
        spec = job(pictures / f"{name}.png", out / name)
        return Image(name, out / name, str(pictures / f"{name}.png"), lambda begun: begun or spec)

    return [image(name) for name in names]


@pytest.mark.usefixtures("local_ray")
def test_what_goes_wrong_with_an_image_or_a_worker_stops_no_other_image(
    pictures, references, job, tmp_path, published_files
):
    """One image loses its measurement, one is taken over, one worker is killed: the others are as
    they should be.
    """
    names = ["im0", "im1", "im2", "im4"]
    out = tmp_path
    lost = "im0"
    superseded = "im1"
    chunks = RunDir(out / lost).staged_input / "c"
    killed = []

    def act(watcher, image, event):
        if isinstance(event, WorkerStarted) and image.name == lost and chunks.exists():
            chunks.rename(out / "hidden")
        if isinstance(event, WorkerStarted) and image.name == superseded:
            Attempt(RunDir(image.root).attempts, force=True).release()
        if isinstance(event, BatchCommitted) and image.name == "im4" and not killed:
            killed.append(event.worker)
            os.kill(int(event.worker.rpartition(":")[2]), signal.SIGKILL)

    watcher = Watcher(act)
    records = ImageRecords(out / "batch.jsonl", {})
    batch = ImageBatch(
        images(names, pictures, job, out), records, window=4, verify=False, watch=watcher
    )
    batch.run(RayExecutor(2), 30.0)
    assert batch.trouble is None
    assert {name: record.state for name, record in watcher.records.items()} == {
        lost: "failed",
        superseded: "failed",
        "im2": "published",
        "im4": "published",
    }
    assert "missing from the array" in watcher.records[lost].error
    assert "superseded" in watcher.records[superseded].error
    assert any(isinstance(event, WorkerLost) for _, event in watcher.events)
    (out / "hidden").rename(chunks)
    rest = images([lost, superseded], pictures, job, out)
    ImageBatch(rest, records, window=1, verify=False).run(RayExecutor(1), 30.0)
    for name in names:
        assert published_files(out / name) == references[name]
        assert records.latest[name].state == "published"


@pytest.mark.usefixtures("local_ray")
def test_workers_that_cannot_start_end_the_whole_batch(pictures, job, tmp_path):
    class Unable(RayWorker):
        def __init__(self):
            raise RuntimeError("no such device")

    kind = WorkerKind(actor=Unable)
    records = ImageRecords(tmp_path / "batch.jsonl", {})
    batch = ImageBatch(
        images(["im0", "im1", "im2"], pictures, job, tmp_path), records, window=2, verify=False
    )
    batch.run(RayExecutor(1, kind=kind), 30.0)
    assert "workers died" in str(batch.trouble)
    assert "no such device" in str(batch.trouble)
    assert {record.state for record in records.latest.values()} == {"failed"}
    assert "im2" not in records.latest, "nothing more was begun"


@pytest.mark.usefixtures("local_ray")
def test_an_image_that_kills_every_worker_at_the_door_ends_alone(
    pictures, references, job, tmp_path, published_files
):
    class Fragile(RayWorker):
        def open(self, run, root, plan):
            if root.endswith("im1"):
                os.kill(os.getpid(), signal.SIGKILL)
            super().open(run, root, plan)

    records = ImageRecords(tmp_path / "batch.jsonl", {})
    batch = ImageBatch(
        images(["im0", "im1", "im2"], pictures, job, tmp_path), records, window=2, verify=False
    )
    batch.run(RayExecutor(1, kind=WorkerKind(actor=Fragile)), 30.0)
    assert batch.trouble is None
    assert {name: record.state for name, record in records.latest.items()} == {
        "im0": "published",
        "im1": "failed",
        "im2": "published",
    }
    assert "as they got ready for this run" in records.latest["im1"].error
    assert published_files(tmp_path / "im2") == references["im2"]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("guilty", "workers"), [("opening", 1), ("opening", 3), ("tile", 1)])
def test_a_death_while_one_run_opens_and_another_works_is_blamed_on_neither_untried(
    pictures, references, job, tmp_path, published_files, guilty, workers
):
    """The first time both are under way. Then an opening dies always, or a tile whenever the other
    run opens beside it.
    """
    knocked = tmp_path / "knocked"
    first = tmp_path / "first"

    class Deadly(RayWorker):
        tiles = 0
        at_the_door = False

        def open(self, run, root, plan):
            if not first.exists():
                first.write_text(os.path.basename(root))
            self.at_the_door = first.read_text() != os.path.basename(root)
            if self.at_the_door:
                while not knocked.exists() and not self.tiles:
                    time.sleep(0.02)
                knocked.touch()
                if guilty == "opening":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(2)  # for tiles to come by
            super().open(run, root, plan)
            self.at_the_door = False

        def run(self, *words):
            self.tiles += 1
            while not knocked.exists():
                time.sleep(0.02)
            if self.at_the_door:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().run(*words)

    watcher = Watcher(lambda *_: None)
    names = ["im0", "im1"]
    records = ImageRecords(tmp_path / "batch.jsonl", {})
    batch = ImageBatch(
        images(names, pictures, job, tmp_path), records, window=2, verify=False, watch=watcher
    )
    batch.run(RayExecutor(workers, kind=WorkerKind(actor=Deadly)), 30.0)
    assert batch.trouble is None
    failed = {*names} - {first.read_text()} if guilty == "opening" else set()
    assert {
        name for name, record in records.latest.items() if record.state != "published"
    } == failed
    for name in {*names} - failed:
        assert published_files(tmp_path / name) == references[name]
    deaths = {event.worker for _, event in watcher.events if isinstance(event, WorkerLost)}
    for name in failed:
        assert re.search(
            r"workers died \d times as they got ready for this run", records.latest[name].error
        )
    # Those beside tiles, of any of the first workers, prove nothing; those alone, of more than
    # ALONE, do.
    if failed:
        assert 3 <= len(deaths) <= workers + min(workers, ALONE) + 1
    else:
        assert len(deaths) == 1


def test_a_manifest_gives_each_image_options_of_its_own(pictures, tmp_path, cli, published_pixels):
    manifest = tmp_path / "images.csv"
    out = tmp_path / "out"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["input", "output", "scale", "levels"])
        rows.writerow([pictures / "im0.png", "twice", "2", "1"])
        rows.writerow([os.path.relpath(pictures / "im1.png", tmp_path), "deep/er", "", ""])
    done = cli("batch", manifest, out, *OPTIONS, "--executor", "serial", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [record["image"] for record in found["records"]] == ["twice", "deep/er"]
    assert 0 < found["utilisation"] <= 1
    assert published_pixels(out / "twice").shape == (3, 28, 32)
    assert published_pixels(out / "deep/er").shape == (3, 56, 64)
    refused = cli(
        "batch", manifest, out, *OPTIONS[2:], "--scale", 8, "--executor", "serial", "--quiet"
    )
    assert refused.code == 1, "another scale for the image that had none of its own"
    assert "task.scale" in json.loads((out / "batch.jsonl").read_text().splitlines()[-1])["error"]
    assert published_pixels(out / "deep/er").shape == (3, 56, 64)


def test_shares_of_a_batch_restore_it_together(pictures, tmp_path, cli, monkeypatch):
    out = tmp_path / "out"
    names = ["im0", BROKEN, "im1"]
    command = [
        "batch",
        *(pictures / f"{name}.png" for name in names),
        out,
        *OPTIONS,
        "--executor",
        "serial",
    ]
    for name, value in {"ID": 4, "COUNT": 2, "MIN": 2, "MAX": 4, "STEP": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    second = cli(*command, "--array", "--no-verify")
    assert second.code == 2, "the second share is the broken image alone"
    assert cli(*command, "--shard", "1/2", "--no-verify").code == 0
    assert (out / "im0.zarr" / "zarr.json").exists()
    assert (out / "im1.zarr" / "zarr.json").exists()
    told = cli("status", out)
    assert f"{out}: 3 images: 2 published, 1 refused" in told.out
    assert f"{BROKEN}.zarr: refused: " in told.out
    whole = cli("resume", out)
    assert whole.code == 1
    assert "no worker was needed" in whole.out
    assert "2 published" in whole.out


def test_a_batch_of_nothing_but_bad_images_is_bad_input(pictures, tmp_path, cli):
    done = cli(
        "batch", pictures / f"{BROKEN}.png", tmp_path / "out", *OPTIONS, "--executor", "serial"
    )
    assert done.code == 2
    assert "none of 1 images can be restored" in done.err.splitlines()[-1]
