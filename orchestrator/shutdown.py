"""Stopping on SIGINT or SIGTERM: the first lets what runs end within a deadline, the second ends at
once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# How long running batches may take to end after the first signal, seconds.
DRAIN_SECONDS = 30.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """What a driver knows of the wish to end it. Without `listen` nobody ever asks, and Ctrl-C is
    Python's own.
    """

    def __init__(self, seconds: float = DRAIN_SECONDS) -> None:
        self.seconds = seconds
        self.requested = False
        self._draining = self._listens = False
        self._due: float | None = None
        self._late: threading.Timer | None = None

    def listen(self) -> None:
        """Handle the signals from now on; again after a library has put its own handlers there."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._signal)
            self._listens = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within: signals are handled here, on the main thread; what handled them before does so
        again afterwards.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        try:
            yield
        finally:
            self._listens = False
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def request(self) -> None:
        """Ask, from any thread, what the first signal asks: nothing new begins.

        Nobody can interrupt the driver's thread; it leaves what still runs when it is `overdue`.
        """
        self._due = time.monotonic() + self.seconds
        self.requested = True

    @property
    def overdue(self) -> bool:
        """Whether what runs has had its time since `request`."""
        return self._due is not None and time.monotonic() >= self._due

    def listen_again(self) -> None:
        """Take the handlers back, if they were ours."""
        if self._listens:
            self.listen()

    @contextlib.contextmanager
    def draining(self) -> Iterator[None]:
        """Within: the first signal only sets `requested`, and raises KeyboardInterrupt when
        `seconds` have passed.
        """
        self._draining = True
        try:
            yield
        finally:
            self._draining = False
            if self._late is not None:
                self._late.cancel()

    def _signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self._draining or self.requested or self.seconds <= 0:
            raise KeyboardInterrupt
        self.requested = True
        again = (threading.main_thread().ident, signal.SIGTERM)
        self._late = threading.Timer(self.seconds, signal.pthread_kill, again)
        self._late.daemon = True
        self._late.start()
