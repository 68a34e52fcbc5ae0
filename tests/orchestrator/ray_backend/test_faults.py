"""Whatever goes wrong under a Ray run is handled, bounded and said: the bytes are those of an
undisturbed run.
"""

import errno
import os
import signal
import sys
import threading
import time

import pytest
import ray
import ray.cloudpickle
import zarr

from orchestrator.errors import RunError, TileError
from orchestrator.events import (
    BatchCommitted,
    BatchFailed,
    RunStarted,
    StoreTrouble,
    TileGivenUp,
    TileSubstituted,
    WorkerLost,
    WorkerStarted,
)
from orchestrator.monitoring.run_progress import read_status
from orchestrator.planning.resolve import load_plan
from orchestrator.ray_backend.actors import RayWorker, WorkerKind, plain
from orchestrator.ray_backend.executor import RayExecutor
from orchestrator.run.lifecycle import resume, start
from orchestrator.run.publish_image import substituted_tiles
from orchestrator.run.serial_executor import SerialExecutor
from orchestrator.run.verify import verify_run
from orchestrator.run_folder import RunDir
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_request import BatchCall
from storage.run_store.journal import read_records

pytestmark = pytest.mark.ray

POISON = TileKey(0, 1, 1)
TILES = 24


@pytest.fixture(scope="module")
def reference(tmp_path_factory, small, job, serially, published_files):
    out = tmp_path_factory.mktemp("reference") / "out"
    assert serially(job(small, out)).tiles == TILES
    return published_files(out)


@pytest.fixture(scope="module", autouse=True)
def faulty_workers(local_ray):
    """One Ray for all tests; its workers get the classes of this file by value."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Heard(list):
    """A listener that keeps the events, and acts once when `when` says so."""

    def __init__(self, act=None, when=None):
        self.act = act
        self.when = when

    def __call__(self, event):
        self.append(event)
        if self.act and self.when(self):
            act = self.act
            self.act = None
            act(self)

    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]

    def pids(self):
        lost = {event.worker for event in self.of(WorkerLost)}
        return [
            int(e.worker.rpartition(":")[2]) for e in self.of(WorkerStarted) if e.worker not in lost
        ]


def commits(count):
    return lambda heard: len(heard.of(BatchCommitted)) >= count


class Poisoned(RayWorker):
    """Do what is said to the process, or raise it, when the poison tile comes; `once`: a file that
    remembers.
    """

    def __init__(self, evil, once):
        super().__init__()
        self._evil = evil
        self._once = once

    def run(self, call, *after):
        before = self._once is not None and os.path.exists(self._once)
        if POISON in BatchCall.of(call).keys and not before:
            if self._once is not None:
                open(self._once, "x").close()
            self._act()
        return super().run(call, *after)

    def _act(self):
        import torch

        if self._evil == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._evil == "hang":
            time.sleep(10_000)
        elif self._evil == "cuda":
            raise plain(
                torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            )
        elif self._evil == "full":
            raise plain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def poisoned(evil, once=None):
    arguments = (evil, once)
    return WorkerKind(actor=Poisoned, arguments=arguments)


def patience(**other):
    """Wait less than people would want to."""
    return {"run": {"hang_seconds": 8.0, "store_seconds": 60.0, **other}}


def test_a_stopped_worker_is_replaced_when_its_batch_is_overdue(
    reference, small, job, tmp_path, published_files
):
    heard = Heard(lambda heard: os.kill(heard.pids()[-1], signal.SIGSTOP), commits(6))
    spec = job(small, tmp_path / "out", run={"hang_seconds": 5.0, "store_seconds": 0.0})
    start(spec, RayExecutor(1), [heard])
    assert published_files(tmp_path / "out") == reference
    assert any("no report for" in event.cause for event in heard.of(WorkerLost))
    assert any("usually" in event.cause for event in heard.of(BatchFailed))


@pytest.mark.parametrize("evil", ["hang", "cuda", "kill"])
def test_a_worker_that_fails_once_is_replaced(
    evil, reference, small, job, tmp_path, published_files
):
    heard = Heard()
    spec = job(small, tmp_path / "out", run={"hang_seconds": 5.0, "store_seconds": 0.0})
    start(spec, RayExecutor(1, kind=poisoned(evil, str(tmp_path / "once"))), [heard])
    assert published_files(tmp_path / "out") == reference
    assert len(heard.of(WorkerLost)) == 1
    assert not heard.of(TileGivenUp)
    if evil == "cuda":
        assert "CUDA error" in heard.of(WorkerLost)[0].cause


class Dawdling(RayWorker):
    """Never get ready, once: a file remembers."""

    def __init__(self, once):
        super().__init__()
        self._once = once

    def open(self, run, root, plan):
        if not os.path.exists(self._once):
            open(self._once, "x").close()
            time.sleep(10_000)
        super().open(run, root, plan)


def test_a_worker_that_does_not_get_ready_in_time_is_replaced(
    reference, small, job, tmp_path, published_files, monkeypatch
):
    monkeypatch.setattr("orchestrator.ray_backend.run_registry.FIRST_SECONDS", 4.0)
    once = str(tmp_path / "once")
    kind = WorkerKind(actor=Dawdling, arguments=(once,))
    heard = Heard()
    spec = job(small, tmp_path / "out", run={"hang_seconds": 1.0, "store_seconds": 0.0})
    start(spec, RayExecutor(1, kind=kind), [heard])
    assert published_files(tmp_path / "out") == reference
    assert [event.cause for event in heard.of(WorkerLost)] == [
        "it did not get ready for a run in time"
    ]
    assert not heard.of(BatchFailed)


def test_a_poison_tile_stops_what_needs_it_and_nothing_else(
    reference, small, job, tmp_path, published_files
):
    out = tmp_path / "out"
    heard = Heard()
    with pytest.raises(
        TileError, match=r"tile level 0 row 1 column 1 failed: worker died.*tiles wait for"
    ) as failed:
        start(job(small, out), RayExecutor(2, kind=poisoned("kill")), [heard])
    assert "--on-failed-tile fill" in str(failed.value)
    plan = load_plan(RunDir(out))
    done = {key for event in heard.of(BatchCommitted) for key in event.keys}
    graph = plan.graph()
    keys = set(map(graph.key, range(graph.count)))
    lost = {POISON}
    while more := {key for key in keys - lost if lost & set(graph.predecessors(key))}:
        lost |= more
    assert 1 < len(lost) < TILES
    assert done == keys - lost
    pauses = [event.pause for event in heard.of(WorkerLost)]
    assert len(pauses) == 5
    assert read_status(out)["state"] == "failed"
    resume(out, RayExecutor(2))
    assert published_files(out) == reference


def test_a_poison_tile_can_be_filled_and_is_named_everywhere(
    reference, small, job, tmp_path, published_files, cli
):
    out = tmp_path / "out"
    heard = Heard()
    outcome = start(
        job(small, out, **patience(on_failed_tile="fill")),
        RayExecutor(2, kind=poisoned("kill")),
        [heard],
    )
    assert outcome.substituted == 1
    assert [event.key for event in heard.of(TileSubstituted)] == [POISON]
    assert [record for record in read_records(RunDir(out).journal) if record[0] == "F"] == [
        "F 0 1 1"
    ]
    (tile,) = zarr.open_group(str(out), mode="r").attrs["gigarestore"]["substituted"]
    assert (tile["level"], tile["row"], tile["col"]) == POISON
    y0, x0, y1, x1 = tile["box"]
    assert 0 <= y0 < y1 <= 80
    assert 0 <= x0 < x1 <= 96
    found = verify_run(out)
    assert found.passed, "what stands in for a tile measures what was measured"
    assert found.substituted == [tile]
    said = cli("verify", out)
    assert said.code == 0
    assert "NOT RESTORED: tile level 0 row 1 column 1" in said.out
    assert "not restored: level 0 row 1 column 1" in cli("status", out).out
    assert published_files(out) != reference


def test_filling_survives_a_resume_and_gives_the_same_bytes(small, job, tmp_path, published_files):
    spec = patience(on_failed_tile="fill")
    start(job(small, tmp_path / "a", **spec), RayExecutor(1, kind=poisoned("kill")))

    def interrupt(_):
        raise KeyboardInterrupt

    out = tmp_path / "b"
    heard = Heard(interrupt, lambda heard: heard.of(TileSubstituted))
    with pytest.raises(KeyboardInterrupt):
        start(job(small, out, **spec), RayExecutor(1, kind=poisoned("kill")), [heard])
    outcome = resume(out, SerialExecutor())
    assert outcome.substituted == 1
    assert substituted_tiles(RunDir(out), load_plan(RunDir(out)))
    assert published_files(out) == published_files(tmp_path / "a")


class Noting(RayWorker):
    """Leave a file when the store has failed."""

    def __init__(self, note):
        super().__init__()
        self._note = note

    def open(self, run, root, plan):
        super().open(run, root, plan)
        self._workers[run].fence = self._note.touch


def test_a_store_that_goes_away_for_a_while_costs_no_try(
    reference, small, job, tmp_path, published_files, eventually
):
    out = tmp_path / "out"
    note = tmp_path / "note"
    work = RunDir(out).work(0)
    away = tmp_path / "away"

    def come_back():
        eventually(note.exists, seconds=100)
        away.rename(work)

    def leave(_):
        work.rename(away)
        threading.Thread(target=come_back).start()

    arguments = (note,)
    heard = Heard(leave, commits(6))
    start(
        job(small, out, **patience()),
        RayExecutor(2, kind=WorkerKind(actor=Noting, arguments=arguments)),
        [heard],
    )
    assert published_files(out) == reference
    assert heard.of(StoreTrouble)
    assert not heard.of(BatchFailed)


def test_a_full_disk_ends_the_run_and_says_what_is_needed(
    reference, small, job, tmp_path, published_files
):
    out = tmp_path / "out"
    heard = Heard()
    with pytest.raises(
        RunError, match=r"the disk is full .* MB are free, the whole run takes about .* MB"
    ) as failed:
        start(job(small, out), RayExecutor(1, kind=poisoned("full")), [heard])
    assert "\n" not in str(failed.value)
    assert not heard.of(BatchFailed)
    resume(out, RayExecutor(1))
    assert published_files(out) == reference


def break_journal(run, device):
    """Let the kernel answer this process's next write to the journal as `device` does."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == str(run.journal):
                number = os.open(device, os.O_RDWR)
                os.dup2(number, int(name))
                os.close(number)
        except FileNotFoundError:
            continue  # it was only open while the folder was read


@pytest.mark.skipif(
    not os.path.exists("/proc/self/mem"), reason="Linux's /proc/self/mem answers writes with EIO"
)
def test_a_journal_that_cannot_be_written_for_once_costs_nothing(
    reference, small, job, tmp_path, published_files
):
    out = tmp_path / "out"
    heard = Heard(lambda _: break_journal(RunDir(out), "/proc/self/mem"), commits(6))
    start(job(small, out, **patience()), RayExecutor(2), [heard])
    assert published_files(out) == reference
    (trouble,) = heard.of(StoreTrouble)
    assert trouble.worker == "driver"
    assert os.strerror(errno.EIO) in trouble.cause
    assert not heard.of(BatchFailed)
    records = list(read_records(RunDir(out).journal))
    assert len(records) == len(set(records)) == TILES


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_journal_on_a_full_disk_ends_the_run(reference, small, job, tmp_path, published_files):
    out = tmp_path / "out"
    heard = Heard(lambda _: break_journal(RunDir(out), "/dev/full"), commits(6))
    with pytest.raises(RunError, match=r"the disk is full .* MB are free"):
        start(job(small, out, **patience()), RayExecutor(2), [heard])
    assert not heard.of(BatchFailed)
    done = len(list(read_records(RunDir(out).journal)))
    assert 6 <= done < TILES
    resume(out, RayExecutor(2))
    assert published_files(out) == reference


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_really_is_full(reference, small, job, tmp_path, published_files):
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ballast = disk / "ballast"

        def fill(event):
            if isinstance(event, RunStarted):
                with pytest.raises(OSError), ballast.open("wb") as file:
                    file.write(bytes(4_000_000))

        with pytest.raises(RunError, match="the disk is full"):
            start(job(small, disk / "out"), RayExecutor(1), [fill])
        ballast.unlink()
        resume(disk / "out", SerialExecutor())
        assert published_files(disk / "out") == reference
    finally:
        subprocess.run(["umount", str(disk)], check=True)
