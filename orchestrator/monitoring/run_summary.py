"""RunSummary: what a run's events say, for everybody who tells people of it. Pure: no clock, no
files.

Status, reports, progress bars, records of a batch and the figures for Prometheus are views of it,
so that they cannot disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from orchestrator.event_log import LoggedEvent
from orchestrator.events import (
    BatchCommitted,
    BatchFailed,
    BatchHalved,
    Event,
    RunFinished,
    RunStarted,
    StoreTrouble,
    TileGivenUp,
    TileSubstituted,
    WorkerLost,
)
from orchestrator.monitoring.throughput import Throughput
from orchestrator.monitoring.worker_times import WorkerTimes

# Notes of what went wrong that are kept, the first ones.
MOST_NOTES = 100


@dataclass(slots=True)
class RunSummary:
    """The state of a run after some of its events; times are wall-clock, s since 1970."""

    began: float = math.inf
    ended: float = 0.0
    attempts: int = 0
    outcome: str = ""
    """How the last attempt ended; empty while it has not."""
    tiles: int = 0
    done: int = 0
    committed: int = 0
    """Tiles that were committed by what was told, the attempts' own beginnings aside."""
    nfe: int = 0
    """Network evaluations of the committed tiles."""
    filled: int = 0
    """Tiles that needed no network."""
    failures: int = 0
    """Tries of batches that failed."""
    last_failure: str = ""
    given_up: list[str] = field(default_factory=list)
    notes: list[tuple[float, str]] = field(default_factory=list)
    """What went wrong, and when; the first hundred."""
    times: WorkerTimes = field(default_factory=WorkerTimes)
    throughput: Throughput = field(default_factory=Throughput)

    @property
    def seconds(self) -> float:
        """Time from the first event, or the first batch's beginning, to the last."""
        return max(self.ended - self.began, 0.0)

    def add(self, event: Event, time: float) -> None:
        """Take an event into account that was told at `time`."""
        self.times.add(event, time)
        self._note(event, time)
        begin = time
        end = time
        match event:
            case RunStarted(tiles=tiles, done=done):
                self.attempts += 1
                self.tiles = tiles
                self.done = done
                self.outcome = ""
                self.throughput.started(time, tiles, done)
            case BatchCommitted():
                self._commit(event)
                begin = event.ended - event.seconds
                end = max(event.ended, time)
            case BatchFailed(cause=cause):
                self.failures += 1
                self.last_failure = cause
            case TileGivenUp(key=key):
                self.given_up.append(str(tuple(key)))
            case RunFinished(outcome=outcome):
                self.outcome = outcome
        self.began = min(self.began, begin)
        self.ended = max(self.ended, end)

    def add_logged(self, logged: LoggedEvent) -> None:
        """Take an event of a log into account."""
        self.add(logged.event, logged.time)

    def _commit(self, event: BatchCommitted) -> None:
        count = len(event.keys)
        self.done += count
        self.committed += count
        self.nfe += event.nfe
        self.filled += event.filled
        self.throughput.committed(event.ended, event.seconds, count, event.nfe, event.path)

    def _note(self, event: Event, time: float) -> None:
        text = trouble_of(event)
        if text is not None and len(self.notes) < MOST_NOTES:
            self.notes.append((time, text))


def trouble_of(event: Event) -> str | None:
    """Return in words what went wrong; None for an event that tells of no trouble."""
    match event:
        case WorkerLost(worker=worker, cause=cause):
            return f"worker {worker} lost: {cause}"
        case BatchHalved(worker=worker, batch=batch):
            return f"worker {worker} ran out of memory: batches of {batch} from then on"
        case BatchFailed(keys=keys, cause=cause, region=region):
            return f"{_tile(keys[0], region)} failed: {cause}"
        case TileGivenUp(key=key, cause=cause, region=region):
            return f"{_tile(key, region)} given up: {cause}"
        case TileSubstituted(key=key, region=region):
            return f"{_tile(key, region)} filled with what was measured"
        case StoreTrouble(worker=worker, cause=cause):
            return f"worker {worker}: the store failed for a while: {cause}"
    return None


def _tile(key: tuple[int, int, int], region: int | None) -> str:
    place = "" if region is None else f" of region {region}"
    return f"tile {tuple(key)}{place}"
