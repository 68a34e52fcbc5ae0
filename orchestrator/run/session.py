"""Session: one driver's attempt at a run. Journals what workers report, releases what waited for
it, tells everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.errors import RunError, TileError
from orchestrator.events import (
    BatchCommitted,
    BatchFailed,
    Event,
    Listener,
    StoreTrouble,
    TileGivenUp,
    TileSubstituted,
)
from orchestrator.job.plan import Plan
from orchestrator.retry import retry_store
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import Frontier
from orchestrator.scheduling.remaining_path import RemainingPath
from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.tile_records import tile_record
from orchestrator.worker.batch_report import Report
from storage.run_store.journal import Journal


class PublishSink(Protocol):
    """Takes what is committed on its way out."""

    def committed(self, keys: Sequence[TileKey]) -> None:
        """Act on tiles that the journal and the frontier know as committed; raises RunError when it
        cannot.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOfRun:
    """Where a session's tiles stand in a run that has regions too."""

    output: Path | None = None
    """The run's folder; None: the session's own."""
    region: int | None = None
    tiles_after: int = 0
    """Tiles of the run that are restored when these are."""
    path_after: int = 0
    """Length of the chain of those."""


@dataclass(slots=True)
class Session:
    """The state that an executor works on; its methods are the only way tiles change state."""

    run_dir: RunDir
    plan: Plan
    frontier: Frontier
    journal: Journal
    listeners: list[Listener] = field(default_factory=list)
    sink: PublishSink | None = None
    """Publishes what is complete while the run goes on."""
    filled: int = 0
    """Tiles of this attempt that needed no network."""
    fence: Callable[[], None] = lambda: None
    """Raises SupersededError when a later attempt has taken the run over
    (storage.run_store.fencing).
    """
    place: PartOfRun = field(default_factory=PartOfRun)
    _reopen: bool = False
    _trouble: list[str] = field(default_factory=list)
    path: RemainingPath = field(init=False)
    """How long the chain of tiles that are left is."""

    def __post_init__(self) -> None:
        self.path = RemainingPath(self.frontier.graph, self.frontier.finished_keys())

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def committed(
        self, worker: str, keys: Sequence[TileKey], seconds: float, nfe: int, filled: int = 0
    ) -> None:
        """Make tiles' completion durable, then release their successors: in this order, always."""
        self.committed_all([(worker, Report(tuple(keys), seconds, nfe, filled))])

    def committed_all(self, reports: Sequence[tuple[str, Report]]) -> None:
        """Do the same for the batches of several workers with one write to the disk."""
        self.record(reports)
        self.release(reports)
        self.announce(reports)

    def record(self, reports: Sequence[tuple[str, Report]]) -> None:
        """Make the completion of batches durable; any thread may, one at a time.

        A store that fails is tried again for a while. Raises SupersededError, with nothing written,
        when another attempt has taken over; OSError when the disk is full or the store stays away.
        """
        records = [
            tile_record(key, substituted=report.substituted)
            for _, report in reports
            for key in report.keys
        ]
        retry_store(
            lambda: self._append(records), self.plan.spec.run.store_seconds, self._trouble.append
        )

    def check_attempt(self) -> None:
        """Raise SupersededError when a later attempt has taken over; a store that cannot tell is
        asked for a while.
        """
        retry_store(self.fence, self.plan.spec.run.store_seconds, self._trouble.append)

    def _append(self, records: Sequence[str]) -> None:
        self.fence()
        if self._reopen:
            self.run_dir.journal.stat()  # an OSError while the store is away
            self.journal = Journal.open(self.run_dir.journal)
            self._reopen = False
        try:
            self.journal.append(records)
        except OSError:
            self._reopen = True
            raise

    def reported(self, reports: Sequence[tuple[str, Report]]) -> None:
        """Release what waited for batches that will be recorded before anything that is released
        here.
        """
        for _, report in reports:
            self.frontier.reported(report.keys)

    def release(self, reports: Sequence[tuple[str, Report]]) -> None:
        """Count batches as done whose completion is durable, and release what waited for them;
        `announce` is to follow.
        """
        for _, report in reports:
            self.frontier.committed(report.keys)

    def announce(self, reports: Sequence[tuple[str, Report]]) -> None:
        """Tell listeners and sink of batches that were released: nobody has to wait for this to
        be dispatched.
        """
        for worker, report in reports:
            self.path.committed(report.keys)
            self.filled += report.filled
            self.emit(
                BatchCommitted(
                    worker=worker,
                    keys=report.keys,
                    seconds=report.seconds,
                    nfe=report.nfe,
                    filled=report.filled,
                    path=self.path.length + self.place.path_after,
                    ended=round(report.ended, 3),
                    region=self.place.region,
                )
            )
            if report.trouble:
                self.emit(StoreTrouble(worker=worker, cause=report.trouble))
            for key in report.keys if report.substituted else ():
                self.emit(TileSubstituted(worker=worker, key=key, region=self.place.region))
        while self._trouble:
            self.emit(StoreTrouble(worker="driver", cause=self._trouble.pop(0)))
        if self.sink is not None:
            self.sink.committed([key for _, report in reports for key in report.keys])

    def failed(self, worker: str, keys: Sequence[TileKey], cause: str) -> bool:
        """Record a failed try; the frontier decides who tries again and who is given up. True when
        any is done with.

        Raises SupersededError when another attempt has taken over: failures are then its doing.
        """
        self.check_attempt()
        self.emit(self._failure(worker, keys, cause))
        given_up = self.frontier.failed(keys, cause)
        for key in given_up:
            self.emit(TileGivenUp(key=key, cause=cause, region=self.place.region))
        return bool(given_up) or any(map(self.frontier.to_fill, keys))

    def returned(self, worker: str, keys: Sequence[TileKey], cause: str) -> None:
        """Put a batch back whose worker was taken away: nothing is held against its tiles.

        Raises SupersededError when another attempt has taken over.
        """
        self.check_attempt()
        self.emit(self._failure(worker, keys, cause))
        self.frontier.returned(keys)

    def _failure(self, worker: str, keys: Sequence[TileKey], cause: str) -> BatchFailed:
        region = self.place.region
        return BatchFailed(worker=worker, keys=tuple(keys), cause=cause, region=region)

    @property
    def output(self) -> Path:
        """The folder of the run that the session's tiles belong to."""
        return self.place.output or self.run_dir.root

    @property
    def left(self) -> int:
        """Tiles of the run that are not committed yet."""
        return self.frontier.total - self.frontier.done + self.place.tiles_after

    def check_finished(self) -> None:
        """Raise the error of tiles that were given up, or RunError when tiles are left for another
        reason.
        """
        given_up = list(self.frontier.given_up.items())
        left = self.frontier.total - self.frontier.done
        if given_up:
            more = f"; {len(given_up) - 1} more failed" if len(given_up) > 1 else ""
            waiting = (
                f"; {left - len(given_up)} tiles wait for what failed"
                if left > len(given_up)
                else ""
            )
            raise TileError(
                *given_up[0], f"{more}{waiting} (--on-failed-tile fill goes on without)"
            )
        if left:
            raise RunError(f"{left} tiles are left although nothing can run")


class Executor(Protocol):
    """Runs a session's tiles somewhere."""

    name: str

    def execute(self, session: Session) -> None:
        """Take tiles from the frontier, have workers run them, report back; return when none is
        ready or running.
        """
        ...
