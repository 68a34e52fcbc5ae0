"""Progress that people trust: a live bar on a terminal, a plain line now and then elsewhere.
Listens to events only.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from orchestrator.events import (
    BatchCommitted,
    BatchFailed,
    BatchHalved,
    DomainChecked,
    Draining,
    Event,
    RunStarted,
    Staging,
    StoreTrouble,
    TileGivenUp,
    TileSubstituted,
    WorkerLost,
    WorkerStarted,
)
from orchestrator.monitoring.throughput import Throughput

# Seconds between plain lines where there is no terminal.
PLAIN_INTERVAL = 10.0


class ProgressView:
    """Show a run's events on stderr: tiles done, network evaluations per second, time left,
    workers, failures.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = time.monotonic()
        self._pace = Throughput()
        self._failures = 0

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

    def __call__(self, event: Event) -> None:
        match event:
            case Staging(name=name, done=done, total=total):
                self._stage(name, done, total)
            case RunStarted():
                self._start(event)
            case DomainChecked(far=True, residual=residual, known=known, limit=limit):
                self._say(
                    "warning: this prior does not know such images: its residual on the input is "
                    f"{residual:.2f} of "
                    f"the noise added, on its validation images {known:.2f} (far from them above "
                    f"{limit:.2f}); what it "
                    f"adds here is guessed. Train one on such images: gigarestore train"
                )
            case WorkerStarted(worker=worker, device=device, threads=threads, niceness=niceness):
                self._pace.workers.add(worker)
                share = f", {threads} threads" if threads > 1 else ""
                self._say(
                    f"worker {worker} on "
                    f"{device}{share}{f', niceness {niceness}' if niceness > 0 else ''}"
                )
            case WorkerLost(worker=worker, cause=cause):
                self._pace.workers.discard(worker)
                self._say(f"worker {worker} lost: {cause}")
            case BatchHalved(worker=worker, batch=batch):
                self._say(f"worker {worker} ran out of memory: batches of {batch} from now on")
            case BatchCommitted():
                self._commit(event)
            case BatchFailed(keys=keys, cause=cause):
                self._failures += 1
                self._say(f"tile {keys[0]} failed, will be tried again: {cause}")
            case TileGivenUp(key=key, cause=cause):
                self._say(f"tile {key} given up: {cause}")
            case TileSubstituted(key=key):
                self._say(f"tile {key} could not be restored: what was measured stands in for it")
            case StoreTrouble(worker=worker, cause=cause):
                self._say(f"worker {worker}: the store failed for a while: {cause}")
            case Draining(batches=batches, seconds=seconds):
                self._say(
                    f"stopping: {batches} running batches may take {seconds:.0f} s; again to stop "
                    "at once"
                )

    def _stage(self, name: str, done: int, total: int) -> None:
        """Show how much of an input has been copied, by a bar of its own until it is whole."""
        if self._console.is_terminal:
            if self._bar is None:
                self._open_bar(f"reading {name}", total, TimeRemainingColumn())
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=done)
            if self._bar is not None and done == total:
                self._bar.stop()
                self._bar = None
        elif time.monotonic() - self._last_line > PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            self._say(f"reading {name}: {100 * done // total} %")

    def _open_bar(self, text: str, total: int, last: ProgressColumn, done: int = 0) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            last,
        )
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task(text, total=total, completed=done, rate="")
        self._bar.start()

    def _start(self, event: RunStarted) -> None:
        self._pace.started(time.monotonic(), event.tiles, event.done)
        if event.done:
            self._say(f"resuming: {event.done} of {event.tiles} tiles are done")
        if self._console.is_terminal:
            self._open_bar("tiles", event.tiles, TextColumn("{task.fields[rate]}"), event.done)

    def _commit(self, event: BatchCommitted) -> None:
        now = time.monotonic()
        pace = self._pace
        pace.committed(now, event.seconds, len(event.keys), event.nfe, event.path)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=pace.done, rate=self._rate(now))
        elif now - self._last_line > PLAIN_INTERVAL or pace.done == pace.tiles:
            self._last_line = now
            self._say(f"{pace.done}/{pace.tiles} tiles, {self._rate(now)}")

    def _rate(self, now: float) -> str:
        pace = self._pace
        left = pace.seconds_left(now)
        parts = [
            f"{pace.nfe_per_second(now):.1f} NFE/s",
            *([] if left is None else [f"{duration(left)} left"]),
        ]
        if pace.workers:
            parts.append(f"{len(pace.workers)} workers, batches of {pace.batch:.1f}")
        if self._failures:
            parts.append(f"{self._failures} failed tries")
        return ", ".join(parts)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif not self._console.quiet:
            print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a span of time as people write it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return ""
