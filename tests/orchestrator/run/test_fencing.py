"""One attempt at a time writes to an output: others are refused, and what a superseded one still
does is lost.
"""

import errno
import json
import os
import signal
import time
import uuid

import pytest

from cluster.bench.scheduler import grid_plan
from orchestrator.events import StoreTrouble
from orchestrator.run.session import Session
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import Frontier
from storage.errors import LockedError, SupersededError
from storage.run_store import fencing as attempts
from storage.run_store.fencing import Attempt
from storage.run_store.journal import Journal, read_records
from storage.run_store.run_lock import RunLock

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
PATIENCE = 200


def test_attempts_are_numbered_and_a_later_one_supersedes_the_earlier(tmp_path):
    with Attempt(tmp_path) as first:
        first.check()
        with Attempt(tmp_path) as second:
            assert (first.number, second.number) == (1, 2)
            second.check()
            with pytest.raises(SupersededError, match=r"attempt 1 was superseded by a later one"):
                first.check()
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def elsewhere(folder, number, *, silent_for):
    """Leave what a driver on another machine leaves."""
    path = folder / str(number)
    path.write_text(json.dumps({"pid": 7, "host": "other", "machine": "another", "since": "then"}))
    os.utime(path, (time.time() - silent_for,) * 2)


def test_a_driver_on_another_machine_that_shows_signs_of_life_keeps_others_out(tmp_path):
    elsewhere(tmp_path, 4, silent_for=attempts.EXPIRY / 2)
    with pytest.raises(LockedError, match=r"process 7 on other since then.*--take-over") as refused:
        Attempt(tmp_path)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


@pytest.mark.parametrize(
    ("silent_for", "force"), [(2 * attempts.EXPIRY, False), (0.0, True)], ids=["silent", "forced"]
)
def test_a_silent_driver_or_one_that_the_user_gives_up_is_superseded(tmp_path, silent_for, force):
    elsewhere(tmp_path, 4, silent_for=silent_for)
    with Attempt(tmp_path, force=force) as found:
        assert found.number == 5


def test_an_attempt_whose_number_another_has_used_and_left_meanwhile_is_refused(
    tmp_path, monkeypatch
):
    """It looks, stands still, and finds the next number free again: two others have taken it, and
    it from another, since.
    """
    elsewhere(tmp_path, 4, silent_for=0.0)
    (tmp_path / "6").touch()
    seen = [[4]]  # what it saw when it looked
    now = Attempt._numbers
    monkeypatch.setattr(Attempt, "_numbers", lambda self: seen.pop() if seen else now(self))
    with pytest.raises(LockedError, match="another run began here"):
        Attempt(tmp_path, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6"]


def test_an_attempt_that_has_ended_keeps_nobody_out_and_one_that_lives_says_so(
    tmp_path, monkeypatch, eventually
):
    monkeypatch.setattr(attempts, "HEARTBEAT", 0.02)
    with Attempt(tmp_path) as found:
        path = tmp_path / str(found.number)
        os.utime(path, (0, 0))
        assert eventually(lambda: path.stat().st_mtime > 0, seconds=30), "no sign of life"
    monkeypatch.setattr(attempts, "_machine", lambda: "another")
    with Attempt(tmp_path) as following:
        assert following.number == found.number + 1


def test_a_store_that_is_away_does_not_look_like_a_later_attempt(tmp_path):
    folder = tmp_path / "attempts"
    with Attempt(folder) as found:
        folder.rename(tmp_path / "away")
        found.check()
        (tmp_path / "away").rename(folder)
        found.check()


def test_a_store_that_cannot_tell_who_holds_the_run_is_asked_again(tmp_path):
    asked = []
    heard = []

    def fence():
        asked.append(time.monotonic())
        if len(asked) < 4:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    plan = grid_plan(2, 2, "raster")
    run = RunDir(tmp_path)
    run.state.mkdir()
    frontier = Frontier(plan.graph())
    with Journal.create(run.journal, {}) as journal:
        session = Session(run, plan, frontier, journal, [heard.append], fence=fence)
        session.committed("worker", frontier.take(1), 0.1, 1)
        assert len(asked) == 4
        assert [event.cause for event in heard if isinstance(event, StoreTrouble)] == [
            "OSError: [Errno 5] " + os.strerror(5)
        ] * 3
        assert len(list(journal.records)) == frontier.done == 1
        session.check_attempt()


def test_what_is_appended_to_a_journal_that_was_taken_over_is_lost(tmp_path):
    path = tmp_path / "journal"
    old = Journal.create(path, {"a": 1})
    old.append(["T 0 0 0"])
    new = Journal.take_over(path)
    old.append(["T 0 0 1"])
    new.append(["T 0 0 2"])
    assert list(read_records(path)) == ["T 0 0 0", "T 0 0 2"]
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]
    old.close()
    new.close()


def test_a_lock_can_be_taken_from_a_holder_that_hangs(tmp_path):
    with RunLock(tmp_path / "lock"):
        with pytest.raises(LockedError, match=r"another run works here.*--take-over"):
            RunLock(tmp_path / "lock")
        with RunLock(tmp_path / "lock", force=True), pytest.raises(LockedError):
            RunLock(tmp_path / "lock")


@pytest.mark.slow
def test_a_stopped_driver_that_goes_on_after_it_was_superseded_changes_nothing(
    small, job, serially, tmp_path, start_command, run_command, published_files, unfinished_files
):
    serially(job(small, tmp_path / "reference", sampling={"steps": STEPS}))
    out = tmp_path / "out"
    serial = ["--executor", "serial", "--quiet", "--store-seconds", 2]
    run = RunDir(out)
    old = start_command(
        "restore", small, out, *OPTIONS, *serial, cwd=tmp_path, marker=uuid.uuid4().hex
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not run.journal.exists() or len(list(read_records(run.journal))) < 3:
            assert old.poll() is None, old.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        old.send_signal(signal.SIGSTOP)
        refused = run_command("resume", out, *serial, cwd=tmp_path)
        assert refused.code == 2
        assert f"process {old.pid}" in refused.complaint
        assert "--take-over" in refused.complaint
        done = run_command("resume", out, *serial, "--take-over", cwd=tmp_path, timeout=PATIENCE)
        assert (done.code, done.err) == (0, "")
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        old.send_signal(signal.SIGCONT)
        _, err = old.communicate(timeout=PATIENCE)
    finally:
        old.kill()
    assert old.returncode == 1
    # What it stumbles over first is its attempt's end, or that the new one has cleared the working
    # arrays away.
    assert len(err.splitlines()) == 1
    assert published_files(out) == published_files(tmp_path / "reference")
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {p: b for p, b in after.items() if p != run.events} == {
        p: b for p, b in before.items() if p != run.events
    }
    records = list(read_records(run.journal))
    assert len(records) == len(set(records)) == TILES
    assert not unfinished_files(out)
    assert "superseded" in err
