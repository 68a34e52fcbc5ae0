"""Session: one driver's attempt at a run. Journals what workers report, then releases what waited for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.errors import RunError, TileError
from orchestrator.events import BatchCommitted, BatchFailed, Event, Listener, TileGivenUp
from orchestrator.frontier import Frontier
from orchestrator.grid import TileKey
from orchestrator.plan import Plan
from orchestrator.remaining import RemainingPath
from orchestrator.report import Report
from orchestrator.rundir import RunDir, tile_record
from storage.journal import Journal


@dataclass(slots=True)
class Session:
    """The state that an executor works on; its methods are the only way tiles change state."""

    run_dir: RunDir
    plan: Plan
    frontier: Frontier
    journal: Journal
    listeners: list[Listener] = field(default_factory=list)
    filled: int = 0
    """Tiles of this attempt that needed no network."""
    path: RemainingPath = field(init=False)

    def __post_init__(self) -> None:
        self.path = RemainingPath(self.frontier.graph, self.frontier.finished_keys())

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def committed(self, worker: str, keys: Sequence[TileKey], seconds: float, nfe: int, filled: int = 0) -> None:
        """Make tiles' completion durable, then release their successors: in this order, always."""
        self.committed_all([(worker, Report(tuple(keys), seconds, nfe, filled))])

    def committed_all(self, reports: Sequence[tuple[str, Report]]) -> None:
        """Do the same for the batches of several workers with one write to the disk."""
        self.record(reports)
        self.release(reports)

    def record(self, reports: Sequence[tuple[str, Report]]) -> None:
        """Make the completion of batches durable; any thread may, one at a time."""
        self.journal.append([tile_record(key) for _, report in reports for key in report.keys])

    def release(self, reports: Sequence[tuple[str, Report]]) -> None:
        """Release what waited for batches whose completion is durable."""
        for worker, report in reports:
            self.frontier.committed(report.keys)
            self.path.committed(report.keys)
            self.filled += report.filled
            self.emit(
                BatchCommitted(
                    worker=worker,
                    keys=report.keys,
                    seconds=report.seconds,
                    nfe=report.nfe,
                    filled=report.filled,
                    path=self.path.length,
                )
            )

    def failed(self, worker: str, keys: Sequence[TileKey], cause: str) -> None:
        """Record a failed try; the frontier decides who tries again and who is given up."""
        self.emit(BatchFailed(worker=worker, keys=tuple(keys), cause=cause))
        for key in self.frontier.failed(keys, cause):
            self.emit(TileGivenUp(key=key, cause=cause))

    def check_finished(self) -> None:
        """Raise the error of a tile that was given up, or RunError when tiles are left for another reason."""
        for key, cause in self.frontier.given_up.items():
            raise TileError(key, cause)
        if not self.frontier.finished:
            raise RunError(f"{self.frontier.total - self.frontier.done} tiles are left although nothing can run")


class Executor(Protocol):
    """Runs a session's tiles somewhere."""

    name: str

    def execute(self, session: Session) -> None:
        """Take tiles from the frontier, have workers run them, report back; return when none is ready or running."""
        ...
