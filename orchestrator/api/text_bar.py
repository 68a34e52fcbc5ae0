"""A progress bar of one line of text: the same in a terminal, a notebook and a log.

It needs no library: rich is the command line's, and its live displays flicker in notebooks.
"""

from __future__ import annotations

import time
from typing import Self, TextIO

from orchestrator.events import BatchCommitted, DomainChecked, Event, Staging
from orchestrator.monitoring.run_summary import RunSummary

# Seconds between two drawings of a bar; where there is no terminal, between two lines.
TERMINAL_INTERVAL = 0.1
PLAIN_INTERVAL = 10.0
WIDTH = 30


class TextBar:
    """Draw tiles done, network evaluations per second and time left; a listener for one run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty() or _in_notebook()
        self._summary = RunSummary()
        self._drawn = 0.0
        self._length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._length:
            self._stream.write("\n")
            self._stream.flush()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self._summary.add(event, time.time())
        match event:
            case Staging(name=name, done=done, total=total):
                self._draw(f"reading {name}: {100 * done // total} %", last=False)
            case BatchCommitted():
                self._draw(self._line(), last=self._summary.done == self._summary.tiles)
            case DomainChecked(far=True):
                self._say("this prior does not know such images: what it adds here is guessed")

    def _line(self) -> str:
        now = time.time()
        summary = self._summary
        throughput = summary.throughput
        full = WIDTH * summary.done // max(summary.tiles, 1)
        left = throughput.seconds_left(now)
        rest = "" if left is None else f", {left:.0f} s left"
        bar = "#" * full + "-" * (WIDTH - full)
        rate = throughput.nfe_per_second(now)
        return f"[{bar}] {summary.done}/{summary.tiles} tiles, {rate:.1f} NFE/s{rest}"

    def _draw(self, line: str, *, last: bool) -> None:
        now = time.monotonic()
        interval = TERMINAL_INTERVAL if self._live else PLAIN_INTERVAL
        if not last and now - self._drawn < interval:
            return
        self._drawn = now
        if self._live:
            self._stream.write("\r" + line.ljust(self._length))
            self._length = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _say(self, text: str) -> None:
        self._stream.write(("\n" if self._live and self._length else "") + text + "\n")
        self._length = 0
        self._stream.flush()


def _in_notebook() -> bool:
    """Tell whether output goes to a notebook, which understands a carriage return."""
    import sys

    shell = sys.modules.get("IPython")
    if shell is None:
        return False
    active = shell.get_ipython()
    return active is not None and type(active).__name__ == "ZMQInteractiveShell"
