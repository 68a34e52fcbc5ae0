"""Progress that people trust: a live bar on a terminal, a plain line now and then elsewhere.
Listens to events only.
"""

from __future__ import annotations

import time

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

from cluster.terminal.live_view import LiveView
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
from orchestrator.monitoring.run_summary import RunSummary


class ProgressView(LiveView):
    """Show a run's events on stderr: tiles done, network evaluations per second, time left,
    workers, failures.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._task: TaskID | None = None
        self._summary = RunSummary()

    def __call__(self, event: Event) -> None:
        self._summary.add(event, time.time())
        match event:
            case Staging(name=name, done=done, total=total):
                self._stage(name, done, total)
            case RunStarted():
                self._start(event)
            case DomainChecked(far=True):
                self.say(_domain_warning(event))
            case WorkerStarted():
                self.say(_introduction(event))
            case WorkerLost(worker=worker, cause=cause):
                self.say(f"worker {worker} lost: {cause}")
            case BatchHalved(worker=worker, batch=batch):
                self.say(f"worker {worker} ran out of memory: batches of {batch} from now on")
            case BatchCommitted():
                self._commit()
            case BatchFailed(keys=keys, cause=cause):
                self.say(f"tile {keys[0]} failed, will be tried again: {cause}")
            case TileGivenUp(key=key, cause=cause):
                self.say(f"tile {key} given up: {cause}")
            case TileSubstituted(key=key):
                self.say(f"tile {key} could not be restored: what was measured stands in for it")
            case StoreTrouble(worker=worker, cause=cause):
                self.say(f"worker {worker}: the store failed for a while: {cause}")
            case Draining(batches=batches, seconds=seconds):
                self.say(
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
        elif self.line_is_due:
            self.say(f"reading {name}: {100 * done // total} %")

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
        if event.done:
            self.say(f"resuming: {event.done} of {event.tiles} tiles are done")
        if self._console.is_terminal:
            self._open_bar("tiles", event.tiles, TextColumn("{task.fields[rate]}"), event.done)

    def _commit(self) -> None:
        summary = self._summary
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=summary.done, rate=self._rates())
        elif self.line_is_due or summary.done == summary.tiles:
            self.say(f"{summary.done}/{summary.tiles} tiles, {self._rates()}")

    def _rates(self) -> str:
        """Return how fast the run is, and how long it will take."""
        now = time.time()
        throughput = self._summary.throughput
        parts = [f"{throughput.nfe_per_second(now):.1f} NFE/s"]
        if (left := throughput.seconds_left(now)) is not None:
            parts.append(f"{duration(left)} left")
        if (workers := self._summary.times.present) > 0:
            parts.append(f"{workers} workers, batches of {throughput.batch:.1f}")
        if self._summary.failures:
            parts.append(f"{self._summary.failures} failed tries")
        return ", ".join(parts)


def _domain_warning(check: DomainChecked) -> str:
    return (
        "warning: this prior does not know such images: its residual on the input is "
        f"{check.residual:.2f} of the noise added, on its validation images {check.known:.2f} (far "
        f"from them above {check.limit:.2f}); what it adds here is guessed. Train one on such "
        "images: gigarestore train"
    )


def _introduction(event: WorkerStarted) -> str:
    threads = f", {event.threads} threads" if event.threads > 1 else ""
    niceness = f", niceness {event.niceness}" if event.niceness > 0 else ""
    return f"worker {event.worker} on {event.device}{threads}{niceness}"


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
