"""WorkerTimes: who was there when, and what they did. Pure: events in, sums out."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.events import (
    BatchCommitted,
    Event,
    RegionFinished,
    RunStarted,
    WorkerLost,
    WorkerStarted,
)


@dataclass(slots=True)
class WorkerTime:
    """What one worker did; times are wall-clock, s since 1970."""

    name: str
    device: str = ""
    joined: float | None = None
    """None for a serial run of an older version."""
    left: float | None = None
    """When it was lost or was not needed any more; None while it is there."""
    lost: bool = False
    """It died or was given up, or its driver was."""
    busy: float = 0.0
    """Seconds spent on committed batches."""
    batches: int = 0
    tiles: int = 0

    @property
    def present(self) -> bool:
        return self.joined is not None and self.left is None

    def join(self, time: float, device: str) -> None:
        """Count it as there."""
        self.joined = time
        self.left = None
        self.lost = False
        self.device = device

    def leave(self, time: float, *, lost: bool) -> None:
        """Count it as gone, unless it went before."""
        if self.left is None:
            self.left = time
            self.lost = lost

    def commit(self, event: BatchCommitted) -> None:
        """Add a batch of its."""
        self.busy += event.seconds
        self.batches += 1
        self.tiles += len(event.keys)


@dataclass(slots=True)
class WorkerTimes:
    """The workers of a run, by name."""

    workers: dict[str, WorkerTime] = field(default_factory=dict)
    losses: int = 0
    """Workers that were lost, those that could not start among them."""

    @property
    def present(self) -> int:
        """Number of workers that are there."""
        return sum(worker.present for worker in self.workers.values())

    @property
    def busy(self) -> float:
        """Seconds that all of them spent on committed batches."""
        return sum(worker.busy for worker in self.workers.values())

    def add(self, event: Event, time: float) -> None:
        """Take an event into account that was told at `time`."""
        match event:
            case RunStarted():  # those of a driver that died
                self._all_leave(time, lost=True)
            case RegionFinished():
                self._all_leave(time, lost=False)
            case WorkerStarted(worker=name, device=device):
                self._worker(name).join(time, device)
            case WorkerLost(worker=name):
                self.losses += 1
                if name in self.workers:  # else it could not start
                    self.workers[name].leave(time, lost=True)
            case BatchCommitted(worker=name):
                self._worker(name).commit(event)

    def _all_leave(self, time: float, *, lost: bool) -> None:
        for worker in self.workers.values():
            worker.leave(time, lost=lost)

    def _worker(self, name: str) -> WorkerTime:
        return self.workers.setdefault(name, WorkerTime(name))
