"""Publishing while restoring: shards and coarser levels appear as they complete, cells go, and
nothing else changes.
"""

import os
import signal
import time

import numpy as np
import pytest
import zarr

from orchestrator.events import BatchCommitted
from orchestrator.run.lifecycle import resume
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run_folder import RunDir
from storage.publishing.pyramid_writer import UNFINISHED

# Of an inpainting only the tiles around the hole need the network: all others are copied, so that
# images of several super-blocks (2048 px) are restored in seconds.
SHAPE = (5000, 1500)
HOLE = (slice(40, 60), slice(50, 90))
OPTIONS = {
    "tiling": {"tile": 512, "stride": 384, "margin": 64, "levels": 1, "order": "raster"},
    "sampling": {"steps": 1},
}
COMMAND = [
    "--task",
    "inpaint",
    "--tile",
    512,
    "--stride",
    384,
    "--margin",
    64,
    "--levels",
    1,
    "--steps",
    1,
    "--intent",
    "detail",
    "--order",
    "raster",
]


@pytest.fixture(scope="module")
def scene(tmp_path_factory, write_picture):
    """A picture whose pixels all differ, and a mask with one hole."""
    folder = tmp_path_factory.mktemp("scene")
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = np.stack([(y * 7 + x * 3) % 251, (y // 9 + x // 5) % 256, (x + 2 * y) % 253]).astype(
        np.uint8
    )
    mask = np.full((1, *SHAPE), 255, np.uint8)
    mask[0][HOLE] = 0
    return (
        write_picture(folder / "scene.tif", pixels),
        write_picture(folder / "mask.tif", mask),
        pixels,
    )


@pytest.fixture(scope="module")
def reference(scene, tmp_path_factory, job, serially, published_files):
    """The published bytes of an uninterrupted run that kept its cells."""
    out = tmp_path_factory.mktemp("reference") / "out"
    serially(spec_of(scene, out, job, keep_work=True))
    assert (RunDir(out).work(0) / "c/0/0/0").exists(), "kept"
    return published_files(out)


def spec_of(scene, out, job, **run):
    source, mask, _ = scene
    spec = job(source, out, task={"name": "inpaint"}, run={"executor": "serial", **run}, **OPTIONS)
    return spec.model_copy(update={"input": spec.input.model_copy(update={"mask": str(mask)})})


def cells(run):
    return sum(len(files) for _, _, files in os.walk(run.work(0) / "c"))


def shards(run, level=0):
    return sum(len(files) for _, _, files in os.walk(run.root / UNFINISHED / str(level) / "c"))


class Watch:
    """Look at a run's folder after every batch."""

    def __init__(self, run, stop_after=None):
        self.run = run
        self.stop_after = stop_after
        self.most = 0
        self.seen = []
        self.tiles = 0

    def __call__(self, event):
        if isinstance(event, BatchCommitted):
            self.tiles += 1
            self.most = max(self.most, cells(self.run))
            self.seen.append((shards(self.run, 0), shards(self.run, 1)))
            if self.tiles == self.stop_after:
                raise KeyboardInterrupt


@pytest.mark.slow
def test_shards_appear_and_cells_go_while_the_run_goes_on(
    scene, reference, job, serially, published_files, tmp_path, unfinished_files
):
    run = RunDir(tmp_path / "out")
    watch = Watch(run)
    serially(spec_of(scene, run.root, job), [watch])
    assert published_files(run.root) == reference
    assert not unfinished_files(run.root)
    all_cells = (SHAPE[0] // 128 + 1) * (SHAPE[1] // 128 + 1)
    assert watch.most < 0.7 * all_cells
    finest, coarser = zip(*watch.seen, strict=True)
    assert 0 < finest[3 * len(finest) // 4] < 3, (
        "some of the three super-blocks are published before the end"
    )
    assert max(coarser) > 0, "a coarser shard is written when all under it are there"
    inside = (slice(None), slice(2000, 2100), slice(900, 950))
    assert np.array_equal(zarr.open_array(str(run.root / "0"), mode="r")[inside], scene[2][inside])


@pytest.mark.slow
def test_a_viewer_can_open_the_unfinished_image(scene, job, serially, tmp_path):
    from ome_zarr_models.v05 import Image

    run = RunDir(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        serially(spec_of(scene, run.root, job), [Watch(run, stop_after=40)])
    assert not run.published
    group = zarr.open_group(run.root / UNFINISHED, mode="r")
    Image.from_zarr(group)
    assert group.attrs["unfinished"] is True
    assert np.array_equal(group["0"][:, :512, 1024:], scene[2][:, :512, 1024:])


@pytest.mark.parametrize("tiles", [3, 30, 45])
@pytest.mark.slow
def test_an_interrupted_run_goes_on_without_the_cells_that_are_gone(
    scene, reference, job, serially, published_files, tmp_path, tiles
):
    run = RunDir(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        serially(spec_of(scene, run.root, job), [Watch(run, stop_after=tiles)])
    outcome = resume(run.root, SerialExecutor())
    assert outcome.resumed == tiles
    assert published_files(run.root) == reference


@pytest.mark.slow
def test_a_lost_cell_is_restored_again_with_those_that_it_needs(
    scene, reference, job, serially, published_files, tmp_path
):
    run = RunDir(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        serially(spec_of(scene, run.root, job), [Watch(run, stop_after=40)])
    left = sorted((run.work(0) / "c").rglob("*"))
    left = [path for path in left if path.is_file()]
    left[len(left) // 2].unlink()
    outcome = resume(run.root, SerialExecutor())
    assert outcome.resumed < 40
    assert published_files(run.root) == reference


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor",
    [["--executor", "serial"], pytest.param(["--workers", 2], marks=pytest.mark.ray)],
    ids=["serial", "ray"],
)
def test_kill_9_while_publishing_leaves_no_image_and_resumes_to_the_same_bytes(
    scene,
    reference,
    published_files,
    tmp_path,
    start_command,
    run_command,
    marked_processes,
    eventually,
    executor,
):
    run = RunDir(tmp_path / "out")
    mark = f"streaming-{os.getpid()}"
    source, mask, _ = scene
    command = ["restore", source, run.root, "--mask", mask, *COMMAND, "--quiet", *executor]
    process = start_command(*command, cwd=tmp_path, marker=mark)
    while not shards(run):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not run.published
    ours = lambda: [name for name in marked_processes(mark).values() if "orchestrator" in name]  # noqa: E731
    assert eventually(lambda: not ours(), seconds=30), ours()
    ended = run_command("resume", run.root, "--executor", "serial", "--quiet", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert published_files(run.root) == reference
