"""What happened in a run: frozen event values, and the JSON-lines log that keeps them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

from storage.byte_source import redact


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """A part of an input that cannot be read by windows was copied; told before the run starts, and
    in no log.
    """

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A driver began or resumed a run."""

    tiles: int
    done: int
    executor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainChecked:
    """The prior was tried on the input (orchestrator.run.domain_check); residuals in units of the
    noise added.
    """

    residual: float
    known: float
    limit: float
    far: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted:
    """A worker is ready to take tiles."""

    worker: str
    device: str
    threads: int = 1
    """Threads that its computations on the CPU use."""
    niceness: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """A worker died or was given up; its tiles go back to ready."""

    worker: str
    cause: str
    pause: float = 0.0
    """Seconds until its replacement may start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHalved:
    """A worker ran out of memory and takes fewer tiles at a time from now on."""

    worker: str
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCommitted:
    """Tiles became durable."""

    worker: str
    keys: tuple[tuple[int, int, int], ...]
    seconds: float
    nfe: int
    """Network evaluations, summed over the batch's tiles."""
    filled: int = 0
    """Tiles of the batch that needed none."""
    path: int = 0
    """Tiles on the longest chain that was then left (orchestrator.scheduling.remaining_path)."""
    ended: float = field(default_factory=time.time)
    """When the driver learned that the batch was over, s since 1970; batches share writes of the
    journal, so that this is told about a second later at most, and later while the store fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFailed:
    """A try of some tiles failed."""

    worker: str
    keys: tuple[tuple[int, int, int], ...]
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGivenUp:
    """A tile failed after its last try; whatever depends on it will not run."""

    key: tuple[int, int, int]
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSubstituted:
    """A tile could not be restored; what was measured stands in for it, flagged, and the run goes
    on.
    """

    worker: str
    key: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTrouble:
    """The store failed for a while, and was tried again until it did not."""

    worker: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining:
    """The driver was asked to stop: nothing new begins, what runs may end."""

    batches: int
    seconds: float
    """How long it may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The driver ended: published, failed or interrupted."""

    outcome: str
    seconds: float


Event = (
    Staging
    | RunStarted
    | DomainChecked
    | WorkerStarted
    | WorkerLost
    | BatchHalved
    | BatchCommitted
    | BatchFailed
    | TileGivenUp
    | TileSubstituted
    | StoreTrouble
    | Draining
    | RunFinished
)
Listener = Callable[[Event], None]


class EventLog:
    """Append events to a JSON-lines file: one object a line with its kind and wall-clock time.

    The log is a convenience: when the disk is full or the store away it misses events, and the run
    goes on.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)
        self._names: dict[type[Any], tuple[str, ...]] = {}

    def __call__(self, event: Event) -> None:
        kind: type[Any] = type(event)
        names = self._names.get(kind) or self._names.setdefault(
            kind, tuple(item.name for item in fields(event))
        )
        values = {name: getattr(event, name) for name in names}  # asdict would copy every key
        line = json.dumps({"time": round(time.time(), 3), "event": kind.__name__, **values})
        with contextlib.suppress(OSError):
            self._file.write(redact(line) + "\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
