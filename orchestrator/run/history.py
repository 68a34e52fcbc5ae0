"""What a run's event log tells: attempts, who worked when, what failed. Streams: memory does not
grow with the tiles.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Columns of a timeline: busy time is summed per worker and column, however many batches there were.
COLUMNS = 600


@dataclass(slots=True)
class WorkerHistory:
    """What one worker did, over all attempts."""

    name: str
    device: str = ""
    joined: float | None = None
    """Wall-clock time, s since 1970; None for a serial run."""
    lost: float | None = None
    busy: float = 0.0
    """Seconds spent on batches."""
    batches: int = 0
    tiles: int = 0
    columns: dict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    """Per column of the timeline: seconds busy with level 0 and with coarser levels."""


@dataclass(slots=True)
class History:
    """A run as its log tells it; times are wall-clock, s."""

    began: float = math.inf
    ended: float = 0.0
    attempts: int = 0
    outcome: str = ""
    tiles: int = 0
    done: int = 0
    nfe: int = 0
    filled: int = 0
    failures: int = 0
    given_up: list[str] = field(default_factory=list)
    notes: list[tuple[float, str]] = field(default_factory=list)
    """What went wrong, and when; the first hundred."""
    workers: dict[str, WorkerHistory] = field(default_factory=dict)
    progress: dict[int, int] = field(default_factory=dict)
    """Tiles committed by the end of a column."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def column(self) -> float:
        """Width of a column of the timeline, s."""
        return max(self.seconds / COLUMNS, 1e-6)

    def utilisation(self, worker: WorkerHistory) -> float:
        """Return the share of a worker's life that it spent on batches."""
        begin = self.began if worker.joined is None else worker.joined
        end = self.ended if worker.lost is None else worker.lost
        return min(worker.busy / max(end - begin, 1e-6), 1.0)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a log's events; a last line that a dying driver did not finish is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the disk was full while it was written


def ended(event: dict[str, Any]) -> float:
    """Return when a `BatchCommitted` was over; older logs tell only when it was durable."""
    when: float = event.get("ended", event["time"])
    return when


def read_history(path: Path) -> History:
    """Read an event log twice: for its length, then for what happened in each column of the
    timeline.
    """
    found = History()
    for event in read_events(path):
        begin = end = event["time"]
        if event["event"] == "BatchCommitted":
            begin = ended(event) - event["seconds"]
            end = max(end, ended(event))
        found.began, found.ended = min(found.began, begin), max(found.ended, end)
    for event in read_events(path):
        _apply(found, event)
    return found


def _apply(found: History, event: dict[str, Any]) -> None:
    time = event["time"]
    kind = event["event"]
    match kind:
        case "RunStarted":
            found.attempts += 1
            found.tiles = event["tiles"]
            found.done = event["done"]
            found.outcome = ""
            for worker in found.workers.values():  # those of a driver that died
                worker.lost = time if worker.lost is None else worker.lost
        case "WorkerStarted":
            worker = _worker(found, event["worker"])
            worker.joined = time
            worker.device = event["device"]
            worker.lost = None
        case "WorkerLost":
            if (lost := found.workers.get(event["worker"])) is not None:  # else it could not start
                lost.lost = time
            _note(found, time, f"worker {event['worker']} lost: {event['cause']}")
        case "BatchHalved":
            _note(
                found,
                time,
                f"worker {event['worker']} ran out of memory: batches of {event['batch']} from then on",
            )
        case "BatchCommitted":
            _commit(found, event)
        case "BatchFailed":
            found.failures += 1
            _note(found, time, f"tile {tuple(event['keys'][0])} failed: {event['cause']}")
        case "TileGivenUp":
            found.given_up.append(str(tuple(event["key"])))
            _note(found, time, f"tile {tuple(event['key'])} given up: {event['cause']}")
        case "TileSubstituted":
            _note(found, time, f"tile {tuple(event['key'])} filled with what was measured")
        case "StoreTrouble":
            _note(
                found,
                time,
                f"worker {event['worker']}: the store failed for a while: {event['cause']}",
            )
        case "RunFinished":
            found.outcome = event["outcome"]


def _worker(found: History, name: str) -> WorkerHistory:
    return found.workers.setdefault(name, WorkerHistory(name))


def _commit(found: History, event: dict[str, Any]) -> None:
    worker = _worker(found, event["worker"])
    keys = event["keys"]
    seconds = event["seconds"]
    worker.busy += seconds
    worker.batches += 1
    worker.tiles += len(keys)
    found.done += len(keys)
    found.nfe += event["nfe"]
    found.filled += event.get("filled", 0)
    end = ended(event) - found.began
    found.progress[int(end / found.column)] = found.done
    lo = end - seconds
    coarse = int(keys[0][0] > 0)
    for column in range(int(lo / found.column), int(end / found.column) + 1):
        left = max(lo, column * found.column)
        right = min(end, (column + 1) * found.column)
        worker.columns[column][coarse] += max(right - left, 0.0)


def _note(found: History, time: float, text: str) -> None:
    if len(found.notes) < 100:
        found.notes.append((time, text))
