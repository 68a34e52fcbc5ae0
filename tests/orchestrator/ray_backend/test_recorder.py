"""The driver's queue and the journal's thread: records in the order of the reports, and none
after one that failed.
"""

import os
import threading
from collections.abc import Collection
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.bench.scheduler import grid_plan
from orchestrator.ray_backend.event_queue import (
    DriverEvent,
    EventQueue,
    JournalSynced,
    Recorder,
    Reports,
    Result,
    Wakeup,
)
from orchestrator.ray_backend.run_registry import RunRegistry
from orchestrator.run.session import Session
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import QUARANTINE_AFTER, Frontier
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_report import Report
from storage.run_store.journal import Journal, read_records


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

    queue = EventQueue()
    recorder = Recorder(record, queue)
    for column in range(6):
        recorder.put(reports(column))
    recorder.close()
    events = [event for event in queue.take(0) if isinstance(event, JournalSynced)]
    assert [
        key.col for event in events for _, report in event.reports for key in report.keys
    ] == list(range(6))
    assert written == list(range(len(written)))
    told = [
        key.col
        for event in events
        if event.error is None
        for _, report in event.reports
        for key in report.keys
    ]
    assert told == written
    assert (bad is None) == (len(written) == 6)
    assert bad is None or bad not in written


def test_a_record_wakes_nobody_unless_there_is_a_hurry():
    queue = EventQueue()
    waited = threading.Event()
    written = threading.Event()

    def write(_: Reports) -> None:
        assert waited.wait(600)
        written.set()

    recorder = Recorder(write, queue)
    recorder.put(reports(0))
    later = threading.Timer(0.3, waited.set)
    later.start()
    first = queue.take(1.5)
    assert not any(isinstance(event, Wakeup) for event in first)
    assert written.wait(600)
    recorder.hurry()
    recorder.put(reports(1))
    first += until_it_wakes(queue)
    recorder.close()
    found = [event for event in first + queue.look() if isinstance(event, JournalSynced)]
    assert [key.col for event in found for _, report in event.reports for key in report.keys] == [
        0,
        1,
    ]


def until_it_wakes(queue: EventQueue) -> list[DriverEvent]:
    """Return what has come when the bell has rung; it may ring for what was found before, and after
    what it rings for.
    """
    found: list[DriverEvent] = []
    for _ in range(600):
        found += (loud := queue.take(100))
        if any(isinstance(event, Wakeup) for event in loud):
            return found
    raise AssertionError("nobody rang")


def test_a_store_that_does_not_answer_holds_nobody_up_who_ends():
    answered = threading.Event()
    queue = EventQueue()

    def write(_: Reports) -> None:
        assert answered.wait(600)

    recorder = Recorder(write, queue)
    recorder.put(reports(0))
    recorder.close(0.2)
    assert not queue.look()
    answered.set()
    recorder.close()
    assert any(isinstance(event, JournalSynced) for event in queue.look())


def test_the_last_records_of_a_run_hurry_also_when_its_last_tile_is_given_up(tmp_path):
    plan = grid_plan(1, 2, "raster")
    settled = threading.Event()

    def fence() -> None:
        if threading.current_thread().name == "journal":
            assert settled.wait(250)

    run = RunDir(tmp_path)
    queue = EventQueue()
    run.state.mkdir()
    frontier = Frontier(plan.graph())
    with Journal.create(run.journal, {}) as journal:
        ended = Future[None]()
        registry = RunRegistry(queue)
        session = Session(run, plan, frontier, journal, [], fence=fence)
        served = registry.admit(session, ended)
        first = tuple(frontier.take(1))
        served.put([("worker", Report(first, 0.1, 1))])
        registry.settle()
        last = frontier.take(1)
        for _ in range(QUARANTINE_AFTER - 1):
            assert not session.failed("worker", last, "why")
            assert frontier.take(1) == last
        assert session.failed("worker", last, "why")
        registry.settle()
        settled.set()
        for event in until_it_wakes(queue) + queue.look():
            if isinstance(event, JournalSynced):
                registry.synced(event)
        registry.settle()
        assert ended.done()
    assert len(list(read_records(run.journal))) == len(first)


class Call:
    """A remote call, as far as the queue needs one."""

    def __init__(self) -> None:
        self.answer = Future[str]()

    def future(self) -> Future[str]:
        return self.answer


def ended(calls: Collection[Call]) -> list[tuple[Call, Future[str]]]:
    return [(call, call.answer) for call in calls if call.answer.done()]


def test_an_answer_is_found_once_by_looking_or_by_waiting():
    queue = EventQueue()
    first = Call()
    second = Call()
    third = Call()
    for call in (first, second, third):
        queue.expect(call)
    assert queue.look(ended) == []
    first.answer.set_result("first")
    assert queue.look(ended) == [Result(first, first.answer)]
    second.answer.set_result("second")
    assert queue.take(600) == [Result(second, second.answer)]
    later = threading.Timer(0.05, third.answer.set_result, ["third"])
    later.start()
    assert queue.take(600) == [Result(third, third.answer)]
    assert queue.look(ended) == queue.take(0) == []


def test_answers_of_older_calls_come_before_those_of_newer_ones():
    queue = EventQueue()
    older = Call()
    newer = Call()
    queue.expect(older)
    assert queue.take(0) == []
    queue.expect(newer)
    newer.answer.set_result("newer")
    older.answer.set_result("older")
    assert queue.look(ended) == [Result(older, older.answer), Result(newer, newer.answer)]


@given(
    seconds=st.floats(0, 1e6),
    nfe=st.integers(0, 2**40),
    filled=st.integers(0, 1000),
    limit=st.none() | st.integers(1, 1000),
    substituted=st.booleans(),
    trouble=st.text(),
)
@pytest.mark.slow
def test_a_report_is_what_was_packed(
    seconds: float, nfe: int, filled: int, limit: int | None, substituted: bool, trouble: str
):
    keys = (TileKey(0, 1, 2), TileKey(1, 0, 0))
    report = Report(keys, seconds, nfe, filled, limit, substituted, trouble)
    assert Report.of(keys, report.packed()) == report


def test_a_report_of_a_file_whose_name_is_no_text_can_be_packed():
    report = Report((), 0.0, 0, trouble=os.fsdecode(b"no space for \xff.zarr"))
    assert Report.of((), report.packed()).trouble == r"no space for \udcff.zarr"
