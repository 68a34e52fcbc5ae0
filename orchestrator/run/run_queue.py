"""RunQueue: runs that threads of this process prepare and publish, on their way to the one that has
them executed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from orchestrator.errors import RunError
from orchestrator.run.session import Session

Arrival = tuple[Session, "Future[None]"]
"""A run, and what is told when all of it has been executed, or what went wrong."""


class Server(Protocol):
    """Executes the runs that arrive, on the thread that calls it."""

    name: str

    def serve(self, run_queue: RunQueue) -> None:
        """Return when no more will arrive and all have ended; raises what ends them all."""
        ...


class RunQueue:
    """A queue of runs; any thread may put one there, one thread takes them."""

    def __init__(self) -> None:
        self._waiting: deque[Arrival] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._refusal: BaseException | None = None
        self.more = True
        """False when all runs that are ever to come have been begun: then the longest of those
        under way matters.
        """
        self.wake: Callable[[], None] = lambda: None
        """Called when something has arrived, or nothing will any more."""

    def put(self, session: Session) -> Future[None]:
        """Have a run executed; the future ends with it."""
        ended: Future[None] = Future()
        with self._changed:
            if self._refusal is not None:
                ended.set_exception(again(self._refusal))
                return ended
            self._waiting.append((session, ended))
        self._notify()
        return ended

    def close(self) -> None:
        """Say that nothing more will arrive."""
        self._closed = True
        self._notify()

    def refuse(self, error: BaseException) -> None:
        """Let what waits, and whatever comes, end with an error."""
        with self._changed:
            self._refusal = error
            left = list(self._waiting)
            self._waiting.clear()
        for _, ended in left:
            ended.set_exception(again(error))

    @property
    def exhausted(self) -> bool:
        """True when nothing waits and nothing will come."""
        return self._closed and not self._waiting

    def take(self) -> list[Arrival]:
        """Return what has arrived."""
        with self._changed:
            arrived = list(self._waiting)
            self._waiting.clear()
        return arrived

    def wait(self) -> bool:
        """Wait for something to arrive; False when nothing will."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait(0.5)  # signals are handled between two waits
            return bool(self._waiting)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self.wake()


class Elsewhere:
    """An executor for a thread that prepares runs: another thread serves them."""

    def __init__(self, run_queue: RunQueue, name: str) -> None:
        self._run_queue = run_queue
        self.name = name

    def execute(self, session: Session) -> None:
        """Have the session's tiles run; raises what the executor that serves raises for it."""
        self._run_queue.put(session).result()


def again(error: BaseException) -> BaseException:
    """Return an error like this one for another thread: a traceback grows wherever its error is
    raised.
    """
    return KeyboardInterrupt() if isinstance(error, KeyboardInterrupt) else RunError(str(error))
