"""EventQueue: one place to wait for everything that may happen to a driver: results of remote calls
and its own threads.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from orchestrator.worker.batch_report import Report

# Reports are collected for this share of the time since the first, within these limits, s, before
# they share a write to the disk: nobody waits for it, and a crash costs no more than what was
# reported meanwhile. Each write costs the driver about .4 ms of CPU, threads that wake up included.
GATHER_SHARE = 0.01
LEAST_GATHER = 0.05
MOST_GATHER = 0.5

Reports = Sequence[tuple[str, Report]]
"""Names of workers and what they reported."""


@dataclass(frozen=True, slots=True)
class Result:
    """A remote call has ended; `answer` is done."""

    ref: Any
    answer: Future[Any]


@dataclass(frozen=True, slots=True)
class JournalSynced:
    """The completion of batches is on the disk, or could not be put there."""

    by: Recorder
    reports: Reports
    error: Exception | None = None


class Wakeup:
    """Somebody wants to be attended to."""


DriverEvent = Result | JournalSynced | Wakeup
Answers = Callable[[Collection[Any]], Sequence[tuple[Any, Future[Any]]]]
"""Returns which of some remote calls have ended, and how."""


_here = threading.local()


def _stay() -> None:
    """Keep the thread that calls this known to Python; without effect on a thread that Python has
    started.

    Ray brings answers on a thread of its own. Python would forget it after each call, and map a
    stack for the next: three system calls, and an interrupt of the other cores (docs/RESULTS.md).
    """
    if not hasattr(_here, "known"):
        _here.known = True
        # Without the release that would end what Python knows of the thread.
        ctypes.pythonapi.PyGILState_Ensure()


class EventQueue:
    """Collect what happens on other threads for the one that acts on it."""

    def __init__(self) -> None:
        self._events: SimpleQueue[DriverEvent] = SimpleQueue()
        self._quiet: deque[DriverEvent] = deque()
        """Events that have woken nobody."""
        self._expected: dict[Any, None] = {}
        """Remote calls whose result nobody has been asked to bring."""

    def expect(self, ref: Any) -> None:
        """Have a remote call's result here when it is there."""
        self._expected[ref] = None

    def put(self, event: DriverEvent) -> None:
        """Put an event, and wake who waits for one."""
        self._events.put(event)

    def put_quietly(self, event: DriverEvent) -> None:
        """Put an event that wakes nobody: `take` and `look` return it with whatever they return."""
        self._quiet.append(event)

    def take(self, timeout: float) -> list[DriverEvent]:
        """Return all events that have come; when there is none, wait for one, at most `timeout`
        seconds.
        """
        for ref in self._expected:
            self._have_brought(ref)
        self._expected.clear()
        events = self.look()
        if events:
            return events
        with suppress(Empty):
            events.append(self._events.get(timeout=timeout))
        return events + self.look()

    def look(self, answers: Answers = lambda _: ()) -> list[DriverEvent]:
        """Return what has come by now; what `answers` tells need not be brought, so that nothing
        wakes this process.
        """
        events: list[DriverEvent] = []
        # First: they answer older calls than those that nobody has been asked to bring.
        with suppress(Empty):
            while True:
                events.append(self._events.get_nowait())
        for ref, answer in answers(self._expected):
            del self._expected[ref]
            events.append(Result(ref, answer))
        with suppress(IndexError):
            while True:
                events.append(self._quiet.popleft())
        return events

    def _have_brought(self, ref: Any) -> None:
        def arrived(answer: Future[Any]) -> None:
            _stay()
            self.put(Result(ref, answer))

        ref.future().add_done_callback(arrived)


class Recorder:
    """Write the journal on a thread: reports that come meanwhile share the next write to the disk.

    They are written in the order in which they were put; after a failure nothing is: what follows
    may build on it.
    """

    def __init__(self, record: Callable[[Reports], None], queue: EventQueue) -> None:
        self._record = record
        self._queue = queue
        self._reports: SimpleQueue[Reports | None] = SimpleQueue()
        self._urgent = threading.Event()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def put(self, reports: Reports) -> None:
        """Record batches; a `JournalSynced` follows: quietly unless there is a hurry, or they
        cannot be recorded.
        """
        self._reports.put(reports)

    def close(self, seconds: float | None = None) -> None:
        """Return when everything put has its event, or after so many seconds: the store may not
        answer.
        """
        self.abandon()
        self._thread.join(seconds)

    def abandon(self) -> None:
        """End when everything put has its event, and do not wait for that."""
        self._reports.put(None)
        self.hurry()

    def hurry(self) -> None:
        """Collect no longer: somebody waits for the disk now."""
        self._urgent.set()

    def _write(self) -> None:
        failure: Exception | None = None
        began: float | None = None
        while (first := self._reports.get()) is not None:
            reports = list(first)
            last = False
            began = began or time.monotonic()
            self._urgent.wait(
                min(max(GATHER_SHARE * (time.monotonic() - began), LEAST_GATHER), MOST_GATHER)
            )
            while not self._reports.empty():
                more = self._reports.get()
                last = more is None
                reports += more or ()
            try:
                if failure is None:
                    self._record(reports)
            except Exception as err:  # the disk's refusal: the driver's thread raises it
                failure = err
            self._queue.put_quietly(JournalSynced(self, reports, failure))
            if self._urgent.is_set() or failure is not None:
                self._queue.put(Wakeup())
            if last:
                return
