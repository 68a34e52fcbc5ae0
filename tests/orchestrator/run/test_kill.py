"""kill -9 and gentler signals against the real command: a resumed run ends with the bytes of an
uninterrupted one.
"""

import json
import os
import signal
import time
import uuid
from dataclasses import dataclass

import pytest

from orchestrator.planning.resolve import load_plan
from orchestrator.run_folder import RunDir
from storage.run_store.journal import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Slow enough that a moment can be met: 24 tiles of 8 network evaluations.
STEPS = 8
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
    STEPS,
]
TILES = 24
PATIENCE = 120
# Workers, raylet and GCS follow their driver within seconds.
SOON = 20


@pytest.fixture(scope="module")
def reference(tmp_path_factory, small, job, serially, published_files):
    out = tmp_path_factory.mktemp("reference") / "out"
    outcome = serially(job(small, out, sampling={"steps": STEPS}))
    assert outcome.tiles == TILES
    return published_files(out)


@dataclass
class Driver:
    """A running command, its output folder, and the mark in the environment of all its
    processes.
    """

    process: object
    run: RunDir
    mark: str

    def committed(self):
        return len(list(read_records(self.run.journal))) if self.run.journal.exists() else 0

    def wait_for(self, tiles):
        """Wait until the run has committed so many tiles; it must still be at work then."""
        deadline = time.monotonic() + PATIENCE
        while self.committed() < tiles:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"{self.committed()} tiles after {PATIENCE} s"
            time.sleep(0.01)

    def events(self, kind):
        lines = self.run.events.read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def end(self):
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def working(marked_processes):
    """Return the processes of a driver that could still do something to its output or hold memory
    for it.
    """

    def find(mark):
        own = ("cluster", "RayWorker", "raylet", "gcs_server", "IDLE")
        return {
            pid: name
            for pid, name in marked_processes(mark).items()
            if any(part in name for part in own)
        }

    return find


@pytest.fixture
def drive(small, tmp_path, start_command, marks):
    """Start a restoration of `small`; a driver that a failed test leaves behind is killed."""
    started = []

    def begin(*options, command=("restore", small), **process):
        driver = Driver(None, RunDir(tmp_path / "out"), uuid.uuid4().hex)
        marks.append(driver.mark)
        arguments = [*command, driver.run.root, "--quiet", *options]
        driver.process = start_command(*arguments, cwd=tmp_path, marker=driver.mark, **process)
        started.append(driver)
        return driver

    yield begin
    for driver in started:
        if driver.process.poll() is None:
            driver.process.kill()
            driver.process.communicate()


def finish(run, small, resume_with, reference, published_files, unfinished_files, drive):
    """Resume a run and compare."""
    resumed = drive(*resume_with, command=("resume",))
    code, out, err = resumed.end()
    assert (code, err) == (0, "")
    assert f"{TILES} tiles" in out
    assert published_files(run.root) == reference
    assert not unfinished_files(run.root)


@pytest.mark.parametrize(
    ("tiles", "resume_with"),
    [
        (1, ["--executor", "serial"]),
        (11, ["--executor", "serial", "--batch", 4]),
        (16, ["--workers", 2]),
    ],
    ids=["early", "middle", "late"],
)
def test_a_killed_driver_leaves_no_process_and_resumes_to_the_same_bytes(
    tiles,
    resume_with,
    reference,
    small,
    drive,
    published_files,
    unfinished_files,
    working,
    eventually,
):
    driver = drive(*OPTIONS, "--workers", 2)
    driver.wait_for(tiles)
    driver.process.send_signal(signal.SIGSTOP)  # or it is through before it is killed
    assert len(working(driver.mark)) >= 4, "driver, raylet, GCS and workers carry the mark"
    driver.process.kill()
    assert driver.end()[0] == -signal.SIGKILL
    assert not driver.run.published
    assert eventually(lambda: not working(driver.mark), seconds=SOON), working(driver.mark)
    kept = driver.committed()
    assert tiles <= kept < TILES
    finish(driver.run, small, resume_with, reference, published_files, unfinished_files, drive)
    (started,) = driver.events("RunStarted")[1:]
    assert started["done"] == kept


def test_a_run_whose_workers_are_killed_at_three_moments_ends_by_itself_with_the_same_bytes(
    reference, drive, published_files, unfinished_files, working, eventually
):
    driver = drive(*OPTIONS, "--workers", 2)
    for tiles in (1, 10, 20):
        driver.wait_for(tiles)
        started = [
            int(event["worker"].rpartition(":")[2]) for event in driver.events("WorkerStarted")
        ]
        os.kill([pid for pid in started if pid in working(driver.mark)][-1], signal.SIGKILL)
    code, out, err = driver.end()
    assert (code, err) == (0, "")
    assert f"{TILES} tiles" in out
    # Near the end the killed worker may have been idle and needed no more: then nobody notices.
    assert len(driver.events("WorkerLost")) in (2, 3)
    assert published_files(driver.run.root) == reference
    assert not unfinished_files(driver.run.root)
    assert eventually(lambda: not working(driver.mark), seconds=SOON), working(driver.mark)


def interrupted(driver, small, reference, published_files, unfinished_files, drive):
    """Check that a run ended with 130 and one line that says how to go on; go on."""
    code, out, err = driver.end()
    assert code == 130, err
    assert not out
    (line,) = err.splitlines()
    assert line.startswith("gigarestore: interrupted")
    assert f"gigarestore resume {driver.run.root}" in line
    assert not driver.run.published
    assert driver.events("RunFinished")[-1]["outcome"] == "interrupted"
    serial = ["--executor", "serial"]
    finish(driver.run, small, serial, reference, published_files, unfinished_files, drive)


def test_termination_ends_a_ray_run_as_an_interruption(
    reference, small, drive, published_files, unfinished_files, working, eventually
):
    driver = drive(*OPTIONS, "--workers", 2)
    driver.wait_for(4)
    driver.process.terminate()
    interrupted(driver, small, reference, published_files, unfinished_files, drive)
    assert eventually(lambda: not working(driver.mark), seconds=SOON), working(driver.mark)


def test_ctrl_c_reaches_all_of_a_ray_run_and_ends_it_as_an_interruption(
    reference, small, drive, published_files, unfinished_files, working, eventually
):
    driver = drive(*OPTIONS, "--workers", 2, start_new_session=True)
    driver.wait_for(4)
    os.killpg(driver.process.pid, signal.SIGINT)
    interrupted(driver, small, reference, published_files, unfinished_files, drive)
    assert eventually(lambda: not working(driver.mark), seconds=SOON), working(driver.mark)


def test_termination_while_ray_starts_is_an_interruption_too(
    drive, marked_processes, working, eventually
):
    driver = drive(*OPTIONS, "--steps", 1000, "--workers", 2)
    assert eventually(lambda: len(marked_processes(driver.mark)) > 2, seconds=60), (
        "Ray's processes never came"
    )
    time.sleep(0.5)
    while (
        driver.process.poll() is None
    ):  # a signal that meets Python in the middle of a fork is lost
        driver.process.terminate()
        eventually(lambda: driver.process.poll() is not None, seconds=30)
    code, _, err = driver.end()
    assert code == 130, err
    assert err.splitlines()[-1].startswith("gigarestore: interrupted")
    assert eventually(lambda: not working(driver.mark), seconds=SOON), working(driver.mark)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_serial_run_survives_signals(
    number, reference, small, drive, published_files, unfinished_files
):
    driver = drive(*OPTIONS, "--executor", "serial")
    driver.wait_for(6)
    driver.process.send_signal(number)
    if number == signal.SIGKILL:
        assert driver.end()[0] == -number
        serial = ["--executor", "serial"]
        finish(driver.run, small, serial, reference, published_files, unfinished_files, drive)
    else:
        interrupted(driver, small, reference, published_files, unfinished_files, drive)


def test_two_drivers_on_one_output(reference, small, drive, published_files, cli):
    driver = drive(*OPTIONS, "--executor", "serial")
    driver.wait_for(2)
    driver.process.send_signal(signal.SIGSTOP)  # or it is through before the others have tried
    for command in (
        ("resume", driver.run.root, "--executor", "serial"),
        ("restore", small, driver.run.root, *OPTIONS, "--executor", "serial", "--overwrite"),
    ):
        second = cli(*command)
        assert second.code == 2
        assert "another run works here" in second.complaint
        assert f"process {driver.process.pid}" in second.complaint
    running = cli("status", driver.run.root)
    assert running.code == 0
    assert ": running, " in running.out
    driver.process.send_signal(signal.SIGCONT)
    code, _, err = driver.end()
    assert (code, err) == (0, "")
    assert published_files(driver.run.root) == reference
    assert load_plan(driver.run).graph().count == TILES
