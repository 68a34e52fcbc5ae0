"""The input's header is read once a command; a run that has staged its input needs it no more."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.run.lifecycle import resume, start
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run_folder import RunDir
from tests.places import ROOT

# Every open of the input by one command: two find out what the file is, one hashes it, and each
# reader of pixels (the comparison with the prior's domain, the worker) takes two.
OPENS = {"in.tif": 7, "in.png": 7}

COUNT = """
import os, sys
sys.path.insert(0, sys.argv[1])
opens = 0
def hook(event, arguments):
    global opens
    if event == "open" and str(arguments[0]).endswith(sys.argv[3]):
        opens += 1
sys.addaudithook(hook)
from cluster.cli import _run
code = _run(sys.argv[2:])
print(code, opens)
"""

QUICK = ("--tile", "32", "--stride", "16", "--steps", "2", "--executor", "serial", "--quiet")


def picture(seed=0, size=(40, 36)):
    return np.random.default_rng(seed).integers(60, 190, (*size, 3)).astype(np.uint8)


def write(path, pixels):
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(16, 16))
    else:
        Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("name", OPENS)
@pytest.mark.slow
def test_a_command_reads_the_header_once(tmp_path, name):
    write(tmp_path / name, picture())
    arguments = ["restore", name, "out.zarr", "--scale", "2", *QUICK]
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(ROOT), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == [f"0 {OPENS[name]}"], done.stdout + done.stderr


def job(source, out):
    return JobSpec.build(
        {
            "input": {"path": str(source)},
            "output": str(out),
            "task": {"name": "sr", "scale": 2},
            "sampling": {"steps": 2},
            "tiling": {"tile": 32, "stride": 16},
            "run": {"executor": "serial"},
        }
    )


def published(out):
    return {
        path.relative_to(out): path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file() and ".gigarestore" not in path.parts and path.name != "zarr.json"
    }


class Vanish:
    """A listener that deletes the input when the first tiles are committed, and may then stop."""

    def __init__(self, path, *, stop=False):
        self.path = path
        self.stop = stop

    def __call__(self, event):
        if type(event).__name__ == "BatchCommitted" and self.path.exists():
            self.path.unlink()
            if self.stop:
                raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_whose_input_vanishes_after_staging_is_published(tmp_path):
    source = write(tmp_path / "in.png", picture())
    start(job(source, tmp_path / "whole"), SerialExecutor())
    start(job(source, tmp_path / "out"), SerialExecutor(), [Vanish(source)])
    assert not source.exists()
    assert published(tmp_path / "out") == published(tmp_path / "whole")


@pytest.mark.slow
def test_an_interrupted_run_whose_input_vanished_after_staging_is_resumed(tmp_path):
    source = write(tmp_path / "in.png", picture())
    start(job(source, tmp_path / "whole"), SerialExecutor())
    with pytest.raises(KeyboardInterrupt):
        start(job(source, tmp_path / "out"), SerialExecutor(), [Vanish(source, stop=True)])
    assert not source.exists()
    assert not RunDir(tmp_path / "out").published
    resume(tmp_path / "out", SerialExecutor())
    assert published(tmp_path / "out") == published(tmp_path / "whole")


def test_an_input_that_was_replaced_after_staging_is_still_refused(tmp_path):
    source = write(tmp_path / "in.png", picture())
    with pytest.raises(KeyboardInterrupt):
        start(job(source, tmp_path / "out"), SerialExecutor(), [Vanish(source, stop=True)])
    write(source, picture(seed=1))
    with pytest.raises(PlanError, match="cannot resume: input was"):
        resume(tmp_path / "out", SerialExecutor())


def test_an_input_that_is_read_by_windows_must_be_there_to_resume(tmp_path):
    source = write(tmp_path / "in.tif", picture())
    with pytest.raises(KeyboardInterrupt):
        start(job(source, tmp_path / "out"), SerialExecutor(), [Vanish(source, stop=True)])
    with pytest.raises(PlanError, match=r"in\.tif"):
        resume(tmp_path / "out", SerialExecutor())
