"""RunState: what an executor keeps for one of the runs that it serves."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from orchestrator.errors import RunError
from orchestrator.ray_backend.event_queue import EventQueue, JournalSynced, Recorder, Reports
from orchestrator.ray_backend.object_refs import ObjectRefs
from orchestrator.run.session import Session
from orchestrator.scheduling.deadlines import Deadlines
from orchestrator.scheduling.frontier import Frontier
from orchestrator.worker.batch_report import Report


class RunState:
    """A run under way; `number` names it to the workers."""

    def __init__(
        self, number: int, session: Session, ended: Future[None], queue: EventQueue
    ) -> None:
        self.number = number
        self.session = session
        self.frontier: Frontier = session.frontier
        self.opened: set[Any] = set()
        """Workers that can take its tiles."""
        self.refused: dict[Any, str] = {}
        """Workers that could not get ready for it, and why."""
        self.refs = ObjectRefs()
        run = session.plan.spec.run
        self.deadlines = Deadlines(run.hang_seconds + run.store_seconds)
        self.recorder = Recorder(session.record, queue)
        self.over = False
        """Nothing that its workers still say counts."""
        self.flush: Callable[[], None] = lambda: None
        """Tells its figures to whoever scrapes them."""
        self.news: list[tuple[str, Report]] = []
        """Batches that were released and are not announced."""
        self._ended = ended

    @property
    def idle(self) -> bool:
        """True when no tile runs, can run or is being recorded."""
        return not (self.frontier.ready or self.frontier.running or self.frontier.recording)

    @property
    def draining(self) -> bool:
        """True while what runs, or is being recorded, is worth waiting for."""
        return bool(self.frontier.running or self.frontier.recording)

    def put(self, reports: Reports) -> None:
        """Have batches recorded, and release what waited for them: it will be recorded after them.

        Journal records reach the disk in the order in which they were put, or not at all: after a
        crash a tile is never known without what it was built on.
        """
        self.recorder.put(reports)
        self.session.reported(reports)

    def hurry(self) -> None:
        """Collect reports no longer when there is nothing else to wait for than their records."""
        if not (self.frontier.ready or self.frontier.running):
            self.recorder.hurry()

    def synced(self, event: JournalSynced) -> None:
        """Count batches as committed that are on the disk; raises what kept them from it."""
        if event.error is not None:
            raise event.error
        self.session.release(event.reports)
        self.news += event.reports

    def announce(self) -> None:
        """Tell of what was released: after what it released has been sent, whose workers wait for
        it.
        """
        news = self.news
        self.news = []
        if news:
            self.session.announce(news)

    def end(self, error: BaseException | None = None) -> None:
        """Give the run back to whoever waits for it; with an error, nothing is recorded for it any
        more.
        """
        self.over = True
        self.flush()
        if error is None:
            self.recorder.close()
            self._ended.set_result(None)
            return
        self.session.fence = _fenced
        self.recorder.abandon()
        self._ended.set_exception(error)


def _fenced() -> None:
    raise RunError("this run has ended")
