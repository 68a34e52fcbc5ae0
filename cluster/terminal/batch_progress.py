"""What people see of a batch: one bar for the images and one for each that is open, and at the end
a table.
"""

from __future__ import annotations

import threading
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cluster.terminal.batch_table import busy
from cluster.terminal.live_view import LiveView
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


class BatchView(LiveView):
    """Show a batch on stderr. Its methods may be called on any thread."""

    def __init__(self, images: int, done: int, usage: Usage, quiet: bool = False) -> None:
        """images: all of the batch; done: those that were restored before."""
        super().__init__(quiet)
        self._lock = threading.RLock()
        self._usage = usage
        self._images = images
        self._done = done
        self._tiles: dict[str, list[int]] = {}
        """Done and all, of each image that is open."""
        self._workers: set[str] = set()
        self._tasks: dict[str, TaskID] = {}
        if self._console.is_terminal and not quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._total = self._bar.add_task("images", total=images, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def listener(self, image: Image) -> Listener:
        """Return what listens to an image's events."""

        def listen(event: Event) -> None:
            self._usage(event)
            with self._lock:
                self._event(image.name, event)

        return listen

    def recorded(self, record: ImageRecord) -> None:
        """Show what became of an image."""
        with self._lock:
            self._done += 1
            self._tiles.pop(record.image, None)
            why = f": {record.error}" if record.error else ""
            self.say(f"{record.image}: {record.state}{why}, {self._done} of {self._images} images")
            if self._bar is not None:
                self._bar.update(self._total, completed=self._done)
                if (task := self._tasks.pop(record.image, None)) is not None:
                    self._bar.remove_task(task)

    def _event(self, name: str, event: Event) -> None:
        match event:
            case RunStarted(tiles=tiles, done=done):
                self._tiles[name] = [done, tiles]
                if self._bar is not None and name not in self._tasks:
                    self._tasks[name] = self._bar.add_task(name, total=tiles, completed=done)
            case BatchCommitted(keys=keys):
                self._tiles[name][0] += len(keys)
                self._advance(name)
            case WorkerStarted(worker=worker, device=device) if worker not in self._workers:
                self._workers.add(worker)
                self.say(f"worker {worker} on {device}")
            case WorkerLost(worker=worker, cause=cause) if (
                worker in self._workers or worker == "starting"
            ):
                self._workers.discard(worker)
                self.say(f"worker {worker} lost: {cause}")
            case TileGivenUp(key=key, cause=cause):
                self.say(f"{name}: tile {key} given up: {cause}")
            case TileSubstituted(key=key):
                self.say(
                    f"{name}: tile {key} could not be restored: what was measured stands in for it"
                )
            case StoreTrouble(cause=cause):
                self.say(f"{name}: the store failed for a while: {cause}")
            case Draining(batches=batches, seconds=seconds) if name == next(
                iter(self._tiles), name
            ):
                self.say(
                    f"stopping: {batches} running batches may take {seconds:.0f} s; again to stop "
                    "at once"
                )

    def _advance(self, name: str) -> None:
        done, tiles = self._tiles[name]
        if self._bar is not None:
            self._bar.update(self._tasks[name], completed=done, total=tiles)
        elif self.line_is_due:
            opened = ", ".join(
                f"{name} {done}/{tiles}" for name, (done, tiles) in self._tiles.items()
            )
            self.say(f"{self._done} of {self._images} images; {opened} tiles; {busy(self._usage)}")
