"""The driver's mailbox and the journal's thread: records in the order of the reports, and none after one that failed."""

import os
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.grid import TileKey
from orchestrator.mailbox import Durable, Mailbox, Recorder, Reports, Result, Rung
from orchestrator.report import Report


def reports(*columns: int) -> list[tuple[str, Report]]:
    return [("worker", Report((TileKey(0, 0, column),), 0.1, 1, 0)) for column in columns]


@pytest.mark.parametrize("bad", [None, 0, 2, 4])
def test_records_are_written_in_order_and_none_after_a_failure(bad: int | None):
    written: list[int] = []

    def record(batch):
        columns = [key.col for _, report in batch for key in report.keys]
        if bad in columns:
            raise OSError(28, "no space left on device")
        written.extend(columns)

    mailbox = Mailbox()
    recorder = Recorder(record, mailbox)
    for column in range(6):
        recorder.put(reports(column))
    recorder.close()
    letters = [letter for letter in mailbox.take(0) if isinstance(letter, Durable)]
    assert [key.col for letter in letters for _, report in letter.reports for key in report.keys] == list(range(6))
    assert written == list(range(len(written)))
    told = [
        key.col for letter in letters if letter.error is None for _, report in letter.reports for key in report.keys
    ]
    assert told == written
    assert (bad is None) == (len(written) == 6)
    assert bad is None or bad not in written


def test_a_record_wakes_nobody_unless_there_is_a_hurry():
    mailbox, written = Mailbox(), threading.Event()

    def write(_: Reports) -> None:
        time.sleep(0.5)  # until the other thread waits for letters
        written.set()

    recorder = Recorder(write, mailbox)
    began = time.monotonic()
    recorder.put(reports(0))
    first = mailbox.take(1.5)
    assert time.monotonic() - began > 1.4, "the record rang"
    assert written.wait(600)
    recorder.hurry()
    recorder.put(reports(1))
    for _ in range(600):  # a bell may ring for what has been found already
        first += (loud := mailbox.take(600))
        if any(isinstance(letter, Rung) for letter in loud):
            break
    recorder.close()
    found = [letter for letter in first + mailbox.look() if isinstance(letter, Durable)]
    assert [key.col for letter in found for _, report in letter.reports for key in report.keys] == [0, 1]


class Call:
    """A remote call, as far as the mailbox needs one."""

    def __init__(self) -> None:
        self.answer = Future[str]()

    def future(self) -> Future[str]:
        return self.answer


def ended(calls: Collection[Call]) -> list[tuple[Call, Future[str]]]:
    return [(call, call.answer) for call in calls if call.answer.done()]


def test_an_answer_is_found_once_by_looking_or_by_waiting():
    mailbox, (first, second, third) = Mailbox(), (Call(), Call(), Call())
    for call in (first, second, third):
        mailbox.expect(call)
    assert mailbox.look(ended) == []
    first.answer.set_result("first")
    assert mailbox.look(ended) == [Result(first, first.answer)]
    second.answer.set_result("second")
    assert mailbox.take(600) == [Result(second, second.answer)]
    later = threading.Timer(0.05, third.answer.set_result, ["third"])
    later.start()
    assert mailbox.take(600) == [Result(third, third.answer)]
    assert mailbox.look(ended) == mailbox.take(0) == []


@given(
    seconds=st.floats(0, 1e6),
    nfe=st.integers(0, 2**40),
    filled=st.integers(0, 1000),
    limit=st.none() | st.integers(1, 1000),
    substituted=st.booleans(),
    trouble=st.text(),
)
def test_a_report_is_what_was_packed(
    seconds: float, nfe: int, filled: int, limit: int | None, substituted: bool, trouble: str
):
    keys = (TileKey(0, 1, 2), TileKey(1, 0, 0))
    report = Report(keys, seconds, nfe, filled, limit, substituted, trouble)
    assert Report.of(keys, report.packed()) == report


def test_a_report_of_a_file_whose_name_is_no_text_can_be_packed():
    report = Report((), 0.0, 0, trouble=os.fsdecode(b"no space for \xff.zarr"))
    assert Report.of((), report.packed()).trouble == r"no space for \udcff.zarr"
