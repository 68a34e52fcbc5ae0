"""The journal and the lock: what is committed, and who may commit."""

import os
import signal
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import FormatError, LockedError
from storage.run_store.journal import Journal, read_header, read_records
from storage.run_store.run_lock import RunLock
from tests.places import ROOT

HEADER = {"fingerprint": "abc", "levels": 3, "name": "Zürich 山"}
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), min_size=1, max_size=40
)


def replay(path):
    with Journal.open(path) as journal:
        return journal.header, list(journal.records)


def test_records_are_replayed_in_order(tmp_path):
    path = tmp_path / "journal"
    with Journal.create(path, HEADER) as journal:
        journal.append(["tile 0", "tile 1"])
        journal.append([])
        journal.append(["tile 2"])
        assert list(journal.records) == ["tile 0", "tile 1", "tile 2"]
    assert replay(path) == (HEADER, ["tile 0", "tile 1", "tile 2"])
    assert (read_header(path), list(read_records(path))) == (HEADER, ["tile 0", "tile 1", "tile 2"])


def test_every_line_is_its_payload_and_crc(tmp_path):
    path = tmp_path / "journal"
    with Journal.create(path, HEADER) as journal:
        journal.append(["tile 7 done"])
    for line in path.read_bytes().splitlines():
        payload, _, crc = line.rpartition(b" ")
        assert int(crc, 16) == zlib.crc32(payload)
    assert path.read_text().splitlines()[1].startswith("tile 7 done ")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(texts, max_size=3), max_size=4))
def test_any_records_survive_reopening_between_appends(tmp_path_factory, batches):
    path = tmp_path_factory.mktemp("journal") / "journal"
    Journal.create(path, HEADER).close()
    for batch in batches:
        with Journal.open(path) as journal:
            journal.append(batch)
    assert replay(path) == (HEADER, [record for batch in batches for record in batch])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_torn_end_is_dropped_and_appending_goes_on(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "journal"
    records = [f"tile {n}" for n in range(4)]
    with Journal.create(path, HEADER) as journal:
        first = path.stat().st_size
        journal.append(records)
    whole = path.read_bytes()
    cut = data.draw(st.integers(first, len(whole)))
    tail = data.draw(st.sampled_from([b"", b"\0" * 5, b"garbage", b"tile 9 00000000\n"]))
    path.write_bytes(whole[:cut] + tail)
    kept = whole[:cut].count(b"\n") - 1
    assert list(read_records(path)) == records[:kept]
    with Journal.open(path) as journal:
        assert list(journal.records) == records[:kept]
        journal.append(["after"])
    assert replay(path) == (HEADER, [*records[:kept], "after"])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_damage_before_the_last_line_is_refused_with_its_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "journal"
    with Journal.create(path, HEADER) as journal:
        journal.append([f"tile {n}" for n in range(4)])
    lines = path.read_bytes().splitlines(keepends=True)
    number = data.draw(st.integers(0, len(lines) - 2))
    place = data.draw(st.integers(0, len(lines[number]) - 2))
    bad = bytearray(lines[number])
    bad[place] ^= data.draw(
        st.sampled_from([0x01, 0x02, 0x40])
    )  # never makes a line break from these characters
    if b"\n" in bytes(bad[:-1]) or bytes(bad).lower() == lines[number].lower():
        return
    path.write_bytes(b"".join([*lines[:number], bytes(bad), *lines[number + 1 :]]))
    before = path.read_bytes()
    with pytest.raises(FormatError, match=rf"line {number + 1} is damaged"):
        Journal.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"not a journal\n", b'{"a": 1} 00000000\n', b"\x89PNG\r\n"]
)
def test_a_file_that_is_no_journal_is_refused(tmp_path, content):
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="line 1") as error:
        Journal.open(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_a_journal_of_another_format_is_refused(tmp_path):
    line = b'{"format": "gigarestore-journal", "version": 99, "header": {}}'
    (tmp_path / "journal").write_bytes(line + b" %08x\n" % zlib.crc32(line))
    with pytest.raises(FormatError, match=r"journal format \('gigarestore-journal', 99\)"):
        Journal.open(tmp_path / "journal")


def test_a_missing_journal_is_refused(tmp_path):
    with pytest.raises(FormatError, match="no such journal"):
        Journal.open(tmp_path / "journal")


def test_a_journal_is_never_created_over_another(tmp_path):
    Journal.create(tmp_path / "journal", HEADER).close()
    with pytest.raises(FormatError, match="exists already"):
        Journal.create(tmp_path / "journal", {})
    assert read_header(tmp_path / "journal") == HEADER


@pytest.mark.parametrize("record", ["", "two\nlines", "carriage\rreturn"])
def test_records_that_would_break_the_format_are_refused(tmp_path, record):
    with (
        Journal.create(tmp_path / "journal", HEADER) as journal,
        pytest.raises(ValueError, match="no line break"),
    ):
        journal.append(["fine", record])
    assert replay(tmp_path / "journal") == (HEADER, [])


def test_after_a_failed_append_none_of_its_records_count(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    journal = Journal.create(path, HEADER)
    journal.append(["kept"])

    def full(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append(["lost"])
    with pytest.raises(ValueError, match="the journal is closed"):
        journal.append(["also lost"])
    assert replay(path) == (HEADER, ["kept"])


APPENDER = """
import sys
from storage.run_store.journal import Journal
with Journal.open(sys.argv[1]) as journal:
    n = sum(1 for _ in journal.records)
    while True:
        journal.append([f"tile {n}", f"tile {n + 1}"])
        n += 2
        print(n, flush=True)
"""


def test_kill_9_loses_nothing_that_append_returned_for(tmp_path):
    path = tmp_path / "journal"
    Journal.create(path, HEADER).close()
    for attempt in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        ) as run:
            for _ in range(7 * attempt + 3):
                committed = int(run.stdout.readline())
            run.send_signal(signal.SIGKILL)
        header, records = replay(path)
        assert header == HEADER
        assert len(records) >= committed
        assert records == [f"tile {n}" for n in range(len(records))]


HOLDER = """
import sys
from storage.run_store.run_lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_two_drivers_refuse_each_other_and_a_killed_one_lets_go(tmp_path):
    path = tmp_path / "lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], **pipes) as run:
        assert run.stdout.readline() == b"held\n"
        with pytest.raises(
            LockedError, match=rf"another run works here \(process {run.pid} on .* since "
        ) as error:
            RunLock(path)
        assert "\n" not in str(error.value)
        run.send_signal(signal.SIGKILL)
    with RunLock(path), pytest.raises(LockedError, match=f"process {os.getpid()} "):
        RunLock(path)
    lock = RunLock(path)
    lock.release()
    lock.release()
    assert path.read_bytes() == b""
