"""History: a run as its event log tells it, spread over the columns of a timeline. Streams: memory
does not grow with the tiles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.event_log import read_events
from orchestrator.events import BatchCommitted, Event, RunStarted
from orchestrator.monitoring.run_summary import RunSummary
from orchestrator.monitoring.worker_times import WorkerTime

# Columns of a timeline: busy time is summed per worker and column, however many batches there were.
COLUMNS = 600


@dataclass(slots=True)
class ColumnTime:
    """Seconds that a worker was busy within a column."""

    fine: float = 0.0
    """With tiles of level 0."""
    coarse: float = 0.0
    """With those of coarser levels."""


def _columns() -> dict[int, ColumnTime]:
    return defaultdict(ColumnTime)


@dataclass(slots=True)
class History:
    """A run's summary and its timeline."""

    summary: RunSummary
    columns: dict[str, dict[int, ColumnTime]] = field(default_factory=lambda: defaultdict(_columns))
    """Per worker its busy columns."""
    progress: dict[int, int] = field(default_factory=dict)
    """Tiles committed by the end of a column."""
    _done: int = 0

    @property
    def workers(self) -> dict[str, WorkerTime]:
        return self.summary.times.workers

    @property
    def column(self) -> float:
        """Width of a column of the timeline, s."""
        return max(self.summary.seconds / COLUMNS, 1e-6)

    def utilisation(self, worker: WorkerTime) -> float:
        """Return the share of a worker's life that it spent on batches."""
        begin = self.summary.began if worker.joined is None else worker.joined
        end = self.summary.ended if worker.left is None else worker.left
        return min(worker.busy / max(end - begin, 1e-6), 1.0)

    def place(self, event: Event) -> None:
        """Put an event into its columns; the summary is complete by now."""
        match event:
            case RunStarted(done=done):
                self._done = done
            case BatchCommitted():
                self._place_batch(event)

    def _place_batch(self, event: BatchCommitted) -> None:
        end = event.ended - self.summary.began
        self._done += len(event.keys)
        self.progress[int(end / self.column)] = self._done
        columns = self.columns[event.worker]
        for column, seconds in self._spread(end - event.seconds, end):
            if event.keys[0][0] > 0:
                columns[column].coarse += seconds
            else:
                columns[column].fine += seconds

    def _spread(self, begin: float, end: float) -> Iterator[tuple[int, float]]:
        """Yield the columns that a span of time reaches into, and how far, s."""
        for column in range(int(begin / self.column), int(end / self.column) + 1):
            left = max(begin, column * self.column)
            right = min(end, (column + 1) * self.column)
            yield column, max(right - left, 0.0)


def read_history(path: Path) -> History:
    """Read an event log twice: for its summary, then for what happened in each column."""
    history = History(read_summary(path))
    for _, event in read_events(path):
        history.place(event)
    return history


def read_summary(path: Path) -> RunSummary:
    """Return what an event log says; of a log that is not there: of a run without events."""
    summary = RunSummary()
    for logged in read_events(path):
        summary.add_logged(logged)
    return summary
