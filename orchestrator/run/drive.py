"""drive: one attempt at a run that is prepared and held: restore what is left, publish, tell how it
ended.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import RunError
from orchestrator.event_log import EventLog
from orchestrator.events import Event, Listener, RegionFinished, RunFinished, RunStarted
from orchestrator.job.plan import Plan
from orchestrator.monitoring.tile_counts import tiles_of
from orchestrator.planning.fingerprint import Fingerprint
from orchestrator.run.domain_check import check_domain
from orchestrator.run.publish_image import substituted_tiles
from orchestrator.run.publisher import Publisher
from orchestrator.run.run_part import RunPart, open_parts
from orchestrator.run.session import Executor, PartOfRun, Session
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.cell_lifetime import AHEAD
from orchestrator.scheduling.frontier import Frontier
from storage.errors import SupersededError
from storage.run_store.fencing import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished run did; tiles are those of all levels and regions."""

    root: Path
    plan: Plan
    tiles: int
    resumed: int
    """Tiles that were committed before this attempt."""
    filled: int
    """Tiles of this attempt that needed no network."""
    substituted: int
    """Tiles that could not be restored, and hold what stands in for them."""
    seconds: float


def drive(
    run: RunDir,
    plan: Plan,
    marks: Fingerprint,
    executor: Executor,
    listeners: Sequence[Listener],
    attempt: Attempt,
) -> Outcome:
    """Restore what is left of a run and publish it; marks: its fingerprint."""
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        parts = open_parts(run, plan, marks, listeners)
        for part in parts:
            stack.callback(part.journal.close)
        log = EventLog(run.events)
        stack.callback(log.close)
        driver = _Driver(executor, attempt, run.root, [log, *listeners])
        tiles = tiles_of(plan)
        left = sum(part.tiles - len(part.done) for part in parts)
        driver.emit(RunStarted(tiles=tiles, done=tiles - left, executor=executor.name))
        with driver.telling_the_outcome(began):
            driver.restore_all(parts)
            if not plan.spec.run.keep_work:
                _reclaim(run)
    return Outcome(
        root=run.root,
        plan=plan,
        tiles=tiles,
        resumed=tiles - left,
        filled=driver.filled,
        substituted=len(substituted_tiles(run, plan)),
        seconds=time.perf_counter() - began,
    )


@dataclass(slots=True)
class _Driver:
    """Restores the parts of one run."""

    executor: Executor
    attempt: Attempt
    output: Path
    listeners: list[Listener]
    filled: int = field(default=0, init=False)
    """Tiles so far that needed no network."""

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    @contextlib.contextmanager
    def telling_the_outcome(self, began: float) -> Iterator[None]:
        """Tell how what is done within has ended; began: by time.perf_counter, s."""
        outcome: str | None = "interrupted"
        try:
            yield
            outcome = "published"
        except SupersededError:
            outcome = None  # the log is the later attempt's
            raise
        except (RunError, OSError):
            outcome = "failed"
            raise
        finally:
            if outcome is not None:
                seconds = time.perf_counter() - began
                self.emit(RunFinished(outcome=outcome, seconds=seconds))

    def restore_all(self, parts: list[RunPart]) -> None:
        """Restore one part after another."""
        for number, part in enumerate(parts):
            later = parts[number + 1 :]
            place = PartOfRun(
                output=self.output,
                region=part.region,
                tiles_after=sum(other.tiles - len(other.done) for other in later),
                path_after=sum(other.path for other in later),
            )
            self._restore(part, place)
            if part.region is not None and not part.finished:
                self.emit(RegionFinished(region=part.region))

    def _restore(self, part: RunPart, place: PartOfRun) -> None:
        """Restore what is left of a part and publish it, a shard as soon as it is complete."""
        reclaim = not (part.plan.spec.run.keep_work or part.run.published)
        session = self._session(part, place, reclaim=reclaim)
        with contextlib.ExitStack() as stack:
            # When the store failed another journal was opened than the one that this began with.
            stack.callback(lambda: session.journal.close())
            publisher = None
            if not part.run.published:
                publisher = stack.enter_context(self._publisher(part, session, reclaim=reclaim))
                session.sink = publisher
            if not session.frontier.finished:
                self._check_domain(part)
                self.executor.execute(session)
            self.filled += session.filled
            session.check_finished()
            self.attempt.check()
            if publisher is not None:
                publisher.finish()

    def _session(self, part: RunPart, place: PartOfRun, *, reclaim: bool) -> Session:
        frontier = Frontier(
            part.plan.graph(),
            part.done,
            fill=part.plan.spec.run.on_failed_tile == "fill",
            ahead=AHEAD if reclaim else None,
        )
        session = Session(part.run, part.plan, frontier, part.journal, list(self.listeners))
        session.fence = self.attempt.check
        session.place = place
        return session

    def _publisher(self, part: RunPart, session: Session, *, reclaim: bool) -> Publisher:
        return Publisher(
            part.run,
            part.plan,
            session.frontier,
            beside=self.executor.name != "serial",
            reclaim=reclaim,
            fence=session.check_attempt,
        )

    def _check_domain(self, part: RunPart) -> None:
        """Ask whether the part's prior knows such images at all."""
        check = check_domain(part.run, part.plan)
        if check is not None:
            self.emit(check.event())


def _reclaim(run: RunDir) -> None:
    # The staged input stays: verify reads it.
    for path in (run.state / "work", run.state / "measured", run.state / "regions"):
        shutil.rmtree(path, ignore_errors=True)
