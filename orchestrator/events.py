"""What happens in a run: frozen event values. orchestrator.event_log keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


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
    """Tiles of all levels and regions."""
    done: int
    executor: str = ""


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
    region: int | None = None
    """Region that the tiles belong to; None for those of the whole image."""
    ended: float = field(default_factory=time.time)
    """When the driver learned that the batch was over, s since 1970; batches share writes of the
    journal, so that this is told about a second later at most, and later while the store fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFailed:
    """A try of some tiles failed."""

    worker: str
    keys: tuple[tuple[int, int, int], ...]
    cause: str
    region: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGivenUp:
    """A tile failed after its last try; whatever depends on it will not run."""

    key: tuple[int, int, int]
    cause: str
    region: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSubstituted:
    """A tile could not be restored; what was measured stands in for it, flagged, and the run goes
    on.
    """

    worker: str
    key: tuple[int, int, int]
    region: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTrouble:
    """The store failed for a while, and was tried again until it did not."""

    worker: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionFinished:
    """All tiles of a region are committed; its workers have left, others come for what follows."""

    region: int


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
    | RegionFinished
    | Draining
    | RunFinished
)
Listener = Callable[[Event], None]
