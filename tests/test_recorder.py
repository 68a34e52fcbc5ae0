"""The journal's thread: records in the order of the reports, and none after one that could not be written."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.grid import TileKey
from orchestrator.mailbox import Durable, Mailbox, Recorder
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
