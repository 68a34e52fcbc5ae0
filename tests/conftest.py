"""Fixtures of all tests: pictures and their files, the command line, and what a run published.

Most fixtures are plain functions, so that a test says what it needs: `image = picture(24, 28)`.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.places import ROOT

# What runs in the background of a shell ignores Ctrl-C, and so would the programs under test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is, nothing else.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


# A helper of Ray that was still connecting when its driver died ends by itself after a minute,
# seconds.
AT_LAST = 90

# A network of 0.125 s per 256 px tile: tiles of 32 px and two steps make a whole restoration a
# matter of seconds.
QUICK = {"tile": 32, "stride": 16, "steps": 2}


def make_picture(height, width, channels=3, dtype="uint8", seed=0):
    """Return a smooth picture with an edge and a little grain, (C, H, W), away from black and
    white.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + c) + np.cos(y / 4 - c) for c in range(channels)])
    values = 0.5 + waves / 8 + 0.1 * (x > width / 2) + rng.normal(0, 0.02, waves.shape)
    top = np.iinfo(dtype).max
    return np.rint(values.clip(0.05, 0.95) * top).astype(dtype)


def write_picture(path, pixels, **tiff):
    """Write (C, H, W) pixels as PNG, JPEG or TIFF, by the suffix; return the path."""
    rows = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy()
    if path.suffix == ".png":
        path.write_bytes(bytes(imagecodecs.png_encode(rows)))
    elif path.suffix == ".jpg":
        path.write_bytes(bytes(imagecodecs.jpeg8_encode(rows, level=95)))
    else:
        import tifffile

        photometric = "minisblack" if rows.ndim == 2 else "rgb"
        tifffile.imwrite(path, rows, photometric=photometric, **tiff)
    return path


def job(source, out, *, task=None, sampling=None, tiling=None, **other):
    """Return a small job: super-resolution x4 by two steps on tiles of 32 px at two levels, unless
    told otherwise.
    """
    from orchestrator.job.spec import JobSpec

    quick = {"tile": QUICK["tile"], "stride": QUICK["stride"], "levels": 2, **(tiling or {})}
    return JobSpec.build(
        {
            "input": {"path": None if source is None else str(source), **other.pop("input", {})},
            "output": str(out),
            "task": task or {"name": "sr", "scale": 4},
            "sampling": {"intent": "detail", "steps": QUICK["steps"], **(sampling or {})},
            "tiling": {name: value for name, value in quick.items() if value is not None},
            **other,
        }
    )


def serially(spec, listeners=(), **options):
    """Run a job in this process; return its outcome."""
    from orchestrator.run.lifecycle import start
    from orchestrator.run.serial_executor import SerialExecutor

    return start(spec, SerialExecutor(), listeners, **options)


def published_files(root):
    """Return every file of the published pyramid, name -> bytes: the pixels and how they are
    stored.
    """
    folders = Path(root).iterdir()
    levels = [path for path in folders if path.name.isdecimal() or path.name == "validity"]
    files = [path for folder in levels for path in folder.rglob("*") if path.is_file()]
    assert files, f"nothing is published at {root}"
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def published_pixels(root, level=0):
    """Return the published pixels as another program reads them, (C, H, W)."""
    import zarr

    return np.asarray(zarr.open_array(str(Path(root) / str(level)), mode="r")[:])


def unfinished_files(root):
    """Return everything under a run's folder that is only meant to exist while it is
    being written.
    """
    return [p for p in Path(root).rglob("*") if p.name.endswith(".partial")]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a command that refused: everything that it printed."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"expected one line on stderr, found {self.err!r}"
        assert lines[0].startswith("gigarestore: "), lines[0]
        assert not self.out, self.out
        return lines[0].removeprefix("gigarestore: ")


def start_command(*arguments, cwd, marker="", **options):
    """Start the real command as a process of its own; `marker` goes into the environment of all its
    children.
    """
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    env.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "cluster", *map(str, arguments)],
        cwd=cwd,
        env={**env, "GIGARESTORE_TEST_MARKER": marker},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run_command(*arguments, cwd, timeout=120):
    """Run the real command to its end."""
    process = start_command(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err)


def marked_processes(marker):
    """Return {pid: command line} of the living processes whose environment carries `marker` (Linux
    only).
    """
    found = {}
    wanted = f"GIGARESTORE_TEST_MARKER={marker}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                )
        except OSError:
            continue  # it ended, or it belongs to somebody else
    return found


def eventually(condition, seconds, pause=0.05):
    """Wait until `condition()` is true; return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def _as_fixture(function):
    return pytest.fixture(scope="session", name=function.__name__)(lambda: function)


picture_fixture = _as_fixture(make_picture)
write_fixture = _as_fixture(write_picture)
job_fixture = _as_fixture(job)
serially_fixture = _as_fixture(serially)
files_fixture = _as_fixture(published_files)
pixels_fixture = _as_fixture(published_pixels)
unfinished_fixture = _as_fixture(unfinished_files)
start_fixture = _as_fixture(start_command)
run_fixture = _as_fixture(run_command)
marked_fixture = _as_fixture(marked_processes)
eventually_fixture = _as_fixture(eventually)


@pytest.fixture(autouse=True)
def denormals():
    """Training flushes denormal numbers to 0 in its whole process: not in the tests that follow."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def local_ray():
    """One Ray for a module's tests, begun in this process: executors find it and leave it
    running.
    """
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
        _system_config={"worker_niceness": 0},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def marks():
    """Collect the marks of all drivers; when all tests have run, no process of any of
    them is left.
    """
    found = []
    yield found

    def left():
        return {pid: name for mark in found for pid, name in marked_processes(mark).items()}

    gone = eventually(lambda: not left(), seconds=AT_LAST)
    orphans = left()
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    assert gone, orphans


@pytest.fixture
def cli(capfd):
    """Run the command line in this process: cli("plan", ...) -> Ended. Signal handlers are put
    back.
    """

    def run(*arguments):
        from cluster.cli import _run

        capfd.readouterr()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            code = _run([str(argument) for argument in arguments])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A PNG of 20x24 px: at scale 4 it takes 4x5 tiles of 32 px, after 2x2 at half the size."""
    return write_picture(tmp_path_factory.mktemp("input") / "small.png", make_picture(20, 24))
