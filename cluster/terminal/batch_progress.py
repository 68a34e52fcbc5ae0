"""What people see of a batch: one bar for the images and one for each that is open, and at the end
a table.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from cluster.terminal.progress import PLAIN_INTERVAL, duration
from orchestrator.events import (
    BatchCommitted,
    Draining,
    Event,
    Listener,
    RunStarted,
    StoreTrouble,
    TileGivenUp,
    TileSubstituted,
    WorkerLost,
    WorkerStarted,
)
from orchestrator.monitoring.utilisation import Usage
from orchestrator.run.batch_records import ImageRecord
from orchestrator.run.many_images import Image

# Rows of the table; images that are not restored are always named.
ROWS = 60


class BatchView:
    """Show a batch on stderr. Its methods may be called on any thread."""

    def __init__(self, images: int, done: int, usage: Usage, quiet: bool = False) -> None:
        """images: all of the batch; done: those that were restored before."""
        self._lock = threading.RLock()
        self._usage = usage
        self._images = images
        self._done = done
        self._tiles: dict[str, list[int]] = {}
        self._workers: set[str] = set()
        self._last_line = time.monotonic()
        console = Console(stderr=True, quiet=quiet)
        self._quiet = quiet
        self._bars = None
        self._tasks: dict[str, TaskID] = {}
        if console.is_terminal and not quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns, console=console)
            self._total = self._bars.add_task("images", total=images, completed=done)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def listener(self, image: Image) -> Listener:
        """Return what listens to an image's events."""

        def listen(event: Event) -> None:
            self._usage(event)
            with self._lock:
                self._event(image.name, event)

        return listen

    def told(self, record: ImageRecord) -> None:
        """Show what became of an image."""
        with self._lock:
            self._done += 1
            self._tiles.pop(record.image, None)
            why = f": {record.error}" if record.error else ""
            self._say(f"{record.image}: {record.state}{why}, {self._done} of {self._images} images")
            if self._bars is not None:
                self._bars.update(self._total, completed=self._done)
                if (task := self._tasks.pop(record.image, None)) is not None:
                    self._bars.remove_task(task)

    def _event(self, name: str, event: Event) -> None:
        match event:
            case RunStarted(tiles=tiles, done=done):
                self._tiles[name] = [done, tiles]
                if self._bars is not None and name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=tiles, completed=done)
            case BatchCommitted(keys=keys):
                self._tiles[name][0] += len(keys)
                self._advance(name)
            case WorkerStarted(worker=worker, device=device) if worker not in self._workers:
                self._workers.add(worker)
                self._say(f"worker {worker} on {device}")
            case WorkerLost(worker=worker, cause=cause) if (
                worker in self._workers or worker == "starting"
            ):
                self._workers.discard(worker)
                self._say(f"worker {worker} lost: {cause}")
            case TileGivenUp(key=key, cause=cause):
                self._say(f"{name}: tile {key} given up: {cause}")
            case TileSubstituted(key=key):
                self._say(
                    f"{name}: tile {key} could not be restored: what was measured stands in for it"
                )
            case StoreTrouble(cause=cause):
                self._say(f"{name}: the store failed for a while: {cause}")
            case Draining(batches=batches, seconds=seconds) if name == next(
                iter(self._tiles), name
            ):
                self._say(
                    f"stopping: {batches} running batches may take {seconds:.0f} s; again to stop "
                    "at once"
                )

    def _advance(self, name: str) -> None:
        done, tiles = self._tiles[name]
        if self._bars is not None:
            self._bars.update(self._tasks[name], completed=done, total=tiles)
        elif time.monotonic() - self._last_line > PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            opened = ", ".join(
                f"{name} {done}/{tiles}" for name, (done, tiles) in self._tiles.items()
            )
            self._say(f"{self._done} of {self._images} images; {opened} tiles; {busy(self._usage)}")

    def _say(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, highlight=False, markup=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)


def busy(usage: Usage) -> str:
    """Say how much of their time workers have spent on tiles."""
    if usage.share is None:
        return "no worker was needed"
    return (
        f"{usage.workers} worker{'s' if usage.workers > 1 else ''}, busy {usage.share:.0%} of the "
        "time"
    )


def print_records(records: Sequence[ImageRecord], usage: Usage, seconds: float) -> None:
    """Print what became of a batch's images: a table, and the sum."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    table = Table(
        "image",
        "state",
        "size",
        "tiles",
        "NFE",
        "time",
        "|A x - y|",
        "seam",
        "",
        box=None,
        pad_edge=False,
    )
    shown = [record for i, record in enumerate(records) if i < ROWS or record.state != "published"]
    for r in shown:
        measured = "" if r.consistency is None else _measured(**r.consistency)
        size = "" if r.size is None else f"{r.size[0]}x{r.size[1]}"
        seam = "" if r.seam is None else f"{r.seam:.3f}"
        note = r.error or (f"{r.substituted} tiles filled" if r.substituted else "")
        table.add_row(
            r.image,
            r.state,
            size,
            f"{r.tiles:,}",
            f"{r.nfe:,}",
            duration(r.seconds),
            measured,
            seam,
            note,
        )
    console.print(table)
    if len(shown) < len(records):
        console.print(f"and {len(records) - len(shown)} more, published")
    states = [record.state for record in records]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    console.print(
        f"{len(records)} images: {counts}; {usage.tiles:,} tiles, {usage.nfe:,} NFE in "
        f"{duration(seconds)}"
    )
    console.print(busy(usage))


def _measured(max: float, limit: float, noisy: bool, **_: Any) -> str:
    """Return the largest |A x - y| and what it may be; of a noisy measurement a residual is
    expected.
    """
    return f"{max:.2f} ({'noisy' if noisy else f'limit {limit:.2f}'})"
