"""What the views of running work share: a bar on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress

# Seconds between plain lines where there is no terminal.
PLAIN_INTERVAL = 10.0


class LiveView:
    """Write to stderr: above the bar where one is shown, plain lines elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def line_is_due(self) -> bool:
        """True when the last plain line is long enough ago."""
        return time.monotonic() - self._last_line > PLAIN_INTERVAL

    def say(self, text: str) -> None:
        """Write a line."""
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self._console.quiet:
            print(text, file=sys.stderr, flush=True)
