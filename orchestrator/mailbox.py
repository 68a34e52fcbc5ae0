"""Mailbox: one place to wait for everything that may happen to a driver: results of remote calls and its own threads."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from orchestrator.report import Report

# Reports are collected for this share of the time that there has been work, within these limits, s, before they share a
# write to the disk: nobody waits for it, and a crash costs no more than what was reported meanwhile. Each write costs the
# driver about .4 ms of CPU, threads that wake up included.
GATHER_SHARE, LEAST_GATHER, MOST_GATHER = 0.01, 0.05, 0.5

Reports = Sequence[tuple[str, Report]]
"""Names of workers and what they reported."""


@dataclass(frozen=True, slots=True)
class Result:
    """A remote call has ended; `answer` is done."""

    ref: Any
    answer: Future[Any]


@dataclass(frozen=True, slots=True)
class Durable:
    """The completion of batches is on the disk, or could not be put there."""

    by: Recorder
    reports: Reports
    error: Exception | None = None


class Rung:
    """Somebody wants to be attended to."""


Letter = Result | Durable | Rung


_here = threading.local()


def _stay() -> None:
    """Keep the thread that calls this, one of Ray's, known to Python.

    Python would forget it after each call, and map a stack for the next: three system calls, and an interrupt of the
    other cores (docs/RESULTS.md).
    """
    if not hasattr(_here, "known"):
        _here.known = True
        ctypes.pythonapi.PyGILState_Ensure()  # without the release that would end what Python knows of the thread


class Mailbox:
    """Collect what happens on other threads for the one that acts on it."""

    def __init__(self) -> None:
        self._letters: SimpleQueue[Letter] = SimpleQueue()

    def expect(self, ref: Any) -> None:
        """Put a remote call's result here when it is there."""

        def arrived(answer: Future[Any]) -> None:
            _stay()
            self.put(Result(ref, answer))

        ref.future().add_done_callback(arrived)

    def put(self, letter: Letter) -> None:
        self._letters.put(letter)

    def take(self, timeout: float | None = None) -> list[Letter]:
        """Wait for a letter, at most `timeout` seconds, and return all that have come."""
        try:
            found = [self._letters.get(timeout=timeout)]
        except Empty:
            return []
        while True:
            try:
                found.append(self._letters.get_nowait())
            except Empty:
                return found


class Recorder:
    """Write the journal on a thread: reports that come meanwhile share the next write to the disk.

    They are written in the order in which they were put; after a failure nothing is: what follows may build on it.
    """

    def __init__(self, record: Callable[[Reports], None], mailbox: Mailbox) -> None:
        self._record, self._mailbox = record, mailbox
        self._began = time.monotonic()
        self._reports: SimpleQueue[Reports | None] = SimpleQueue()
        self._urgent = threading.Event()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()
        self.pending = 0
        """Reports whose letter has not been taken; whoever takes it counts down."""

    def put(self, reports: Reports) -> None:
        """Record batches; a `Durable` follows."""
        self.pending += len(reports)
        self._reports.put(reports)

    def close(self) -> None:
        """Return when everything put has its letter."""
        self.abandon()
        self._thread.join()

    def abandon(self) -> None:
        """End when everything put has its letter, and do not wait for that."""
        self._reports.put(None)
        self.hurry()

    def hurry(self) -> None:
        """Collect no longer: somebody waits for the disk now."""
        self._urgent.set()

    def _write(self) -> None:
        failure: Exception | None = None
        while (first := self._reports.get()) is not None:
            reports, last = list(first), False
            self._urgent.wait(min(max(GATHER_SHARE * (time.monotonic() - self._began), LEAST_GATHER), MOST_GATHER))
            while not self._reports.empty():
                more = self._reports.get()
                last = more is None
                reports += more or ()
            try:
                if failure is None:
                    self._record(reports)
            except Exception as err:  # the disk's refusal: the driver's thread raises it
                failure = err
            self._mailbox.put(Durable(self, reports, failure))
            if last:
                return
