"""run: begin or resume a restoration, drive it with an executor, publish. The order of its steps is
the safety argument.

Nothing is created before everything that can be refused has been refused; the job file is written
before the journal, the journal's header before the first tile; the published metadata last of all.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import PlanError, RunError
from orchestrator.events import EventLog, Listener, RunFinished, RunStarted
from orchestrator.job.plan import Plan
from orchestrator.job.spec import JobSpec
from orchestrator.planning.estimate import disk_bytes
from orchestrator.planning.fingerprint import Fingerprint, check_same, fingerprint
from orchestrator.planning.resolve import keep_regions, plan_job
from orchestrator.retry import disk_full
from orchestrator.run.domain_check import check_domain
from orchestrator.run.prepare import (
    adopt_staged,
    check_disk,
    prepare,
    stage_beside,
    with_cells,
)
from orchestrator.run.publish_image import substituted_tiles
from orchestrator.run.publisher import Publisher
from orchestrator.run.session import Executor, Session
from orchestrator.run.tile_records import parse_tile_record
from orchestrator.run_folder import RunDir, check_output
from orchestrator.scheduling.cell_lifetime import AHEAD
from orchestrator.scheduling.frontier import Frontier
from orchestrator.tiling.grid import TileKey
from storage import atomic_files
from storage.errors import FormatError, SupersededError
from storage.run_store.fencing import Attempt
from storage.run_store.journal import Journal, read_header
from storage.run_store.run_lock import RunLock


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished run did."""

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


def start(
    spec: JobSpec, executor: Executor, listeners: Sequence[Listener] = (), overwrite: bool = False
) -> Outcome:
    """Restore spec.input into spec.output; raises PlanError before anything is written, RunError
    when resumable.
    """
    plan = plan_job(spec)
    if spec.output is None:
        raise PlanError("no output named; give OUT, a folder for the OME-Zarr image")
    run = RunDir(Path(spec.output))
    check_output(run, overwrite)
    check_disk(run, disk_bytes(plan) + plan.inputs.staging_bytes)
    marks = fingerprint(plan)
    run.state.mkdir(parents=True, exist_ok=True)
    with _alone(run) as attempt, _room(run, plan):
        replaced = run.job.exists() or run.published
        # Damaged pixels show only when they are decoded: leave nothing of such a run, and what was
        # there before.
        try:
            stage_beside(run, plan, listeners)
            _clear(run)
            replaced = False
            # On the disk, name and all, before there is a journal: without it nobody can resume.
            atomic_files.replace_text(run.job, plan.spec.to_toml(), fsync=True)
            adopt_staged(run)
            prepare(run, plan)
        except FormatError as err:
            if replaced:
                shutil.rmtree(run.incoming)
            else:
                _clear(run)
                if not run.submissions.exists():  # a submitted run's log says what was wrong
                    shutil.rmtree(run.root)
            raise PlanError(str(err)) from err
        return _drive(run, plan, marks, executor, listeners, attempt)


def resume(
    root: Path,
    executor: Executor,
    listeners: Sequence[Listener] = (),
    changes: JobSpec | None = None,
    take_over: bool = False,
) -> Outcome:
    """Go on with the run at `root`; `changes` are options given again, refused when they would
    change pixels.

    take_over: also when another driver works there, or hangs: what it still does no longer counts.
    """
    run = RunDir.existing(root)
    if changes is not None:
        check_same(_marks(JobSpec.load_resolved(run.job)), _marks(changes))
        changes = keep_regions(changes, run)
    plan = plan_job(JobSpec.load_resolved(run.job) if changes is None else changes, run)
    begun = read_header(run.journal)["fingerprint"] if run.journal.exists() else None
    marks = fingerprint(plan, _of_staged(run, begun or {}))
    if begun is not None:  # what is refused leaves no mark, not even an attempt's number
        check_same(begun, marks)
    with _alone(run, take_over=take_over) as attempt, _room(run, plan):
        return _drive(run, plan, marks, executor, listeners, attempt)


@contextlib.contextmanager
def _alone(run: RunDir, *, take_over: bool = False) -> Iterator[Attempt]:
    """Hold the run: no other driver works there, on this machine (lock) or another (signs of life)."""
    with RunLock(run.lock, force=take_over), Attempt(run.attempts, force=take_over) as attempt:
        yield attempt


@contextlib.contextmanager
def _room(run: RunDir, plan: Plan) -> Iterator[None]:
    """Turn the disk's being full into an error that says what is needed."""
    try:
        yield
    except OSError as err:
        if not disk_full(err):
            raise RunError(f"{run.root}: the store failed: {err}") from err
        free = shutil.disk_usage(run.state).free
        raise RunError(
            f"{run.root}: the disk is full ({err.strerror}): {free / 1e6:.0f} MB are free, the whole run takes about "
            f"{disk_bytes(plan) / 1e6:.0f} MB; free some"
        ) from err


def _of_staged(run: RunDir, begun: Fingerprint) -> dict[str, str]:
    """Return the hashes that a run's fingerprint states of inputs of which it holds copies."""
    copies = {"input": run.staged_input, "mask": run.staged_mask}
    return {name: begun[name] for name, path in copies.items() if path.exists() and name in begun}


def _marks(spec: JobSpec) -> Fingerprint:
    """Return what of a specification decides pixels, by name: a changed option is found before it
    meets another.
    """
    sections = {
        name: getattr(spec, name).model_dump(mode="json") for name in ("task", "sampling", "tiling")
    }
    return {
        f"{name}.{field}": value
        for name, values in sections.items()
        for field, value in values.items()
    }


def _drive(
    run: RunDir,
    plan: Plan,
    marks: Fingerprint,
    executor: Executor,
    listeners: Sequence[Listener],
    attempt: Attempt,
) -> Outcome:
    began = time.perf_counter()
    journal, done = _open_journal(run, plan, marks)
    log = EventLog(run.events)
    finished = Frontier(plan.graph(), done).finished
    if not (finished and run.published):
        prepare(run, plan, listeners)
        done = with_cells(run, plan, done)
        if not Frontier(plan.graph(), done).finished:
            _restore_regions(run, plan, marks, executor, attempt)
    keep = plan.spec.run.keep_work or run.published
    fill = plan.spec.run.on_failed_tile == "fill"
    frontier = Frontier(plan.graph(), done, fill=fill, ahead=None if keep else AHEAD)
    session = Session(run, plan, frontier, journal, [log, *listeners])
    session.fence = attempt.check
    with contextlib.ExitStack() as stack:
        stack.callback(
            lambda: session.journal.close()
        )  # a journal that was opened again is another one
        stack.callback(log.close)
        outlet = None
        if not run.published:
            beside = executor.name != "serial"
            fence = session.check_attempt
            outlet = Publisher(run, plan, frontier, beside=beside, reclaim=not keep, fence=fence)
            session.outlet = stack.enter_context(outlet)
        session.emit(
            RunStarted(tiles=session.frontier.total, done=len(done), executor=executor.name)
        )
        outcome: str | None = "interrupted"
        try:
            if not session.frontier.finished:
                if (known := check_domain(run, plan)) is not None:
                    session.emit(known.event())
                executor.execute(session)
            session.check_finished()
            attempt.check()
            if outlet is not None:
                outlet.finish()
            if not plan.spec.run.keep_work:
                _reclaim(run)
            outcome = "published"
        except SupersededError:
            outcome = None  # the log is the later attempt's
            raise
        except (RunError, OSError):
            outcome = "failed"
            raise
        finally:
            if outcome is not None:
                session.emit(RunFinished(outcome=outcome, seconds=time.perf_counter() - began))
    return Outcome(
        root=run.root,
        plan=plan,
        tiles=session.frontier.total,
        resumed=len(done),
        filled=session.filled,
        substituted=len(substituted_tiles(run, plan)),
        seconds=time.perf_counter() - began,
    )


def _restore_regions(
    run: RunDir, plan: Plan, marks: Fingerprint, executor: Executor, attempt: Attempt
) -> None:
    """Finish the runs of all regions; the main run's fingerprint stands for what theirs would say
    of the input.
    """
    for number, region in enumerate(plan.regions):
        sub = RunDir(run.region(number))
        spec = region.plan.spec
        staged = {"path": run.staged_input, "mask": run.staged_mask}
        source = spec.input.model_copy(
            update={k: str(path) for k, path in staged.items() if path.exists()}
        )
        spec = spec.model_copy(update={"input": source, "output": str(sub.root)})
        sub.state.mkdir(parents=True, exist_ok=True)
        atomic_files.replace_text(sub.job, spec.to_toml(), fsync=True)
        _drive(
            sub, replace(region.plan, spec=spec), {**marks, "region": number}, executor, [], attempt
        )


def _open_journal(run: RunDir, plan: Plan, marks: Fingerprint) -> tuple[Journal, list[TileKey]]:
    if not run.journal.exists():
        return Journal.create(run.journal, {"fingerprint": marks}), []
    journal = Journal.take_over(run.journal)
    check_same(journal.header["fingerprint"], marks)
    keys = dict.fromkeys(parse_tile_record(record) for record in journal.records)
    for key in keys:
        if not _exists(plan, key):
            raise PlanError(
                f"the journal names {key}, which this job has not; restore to a new OUT"
            )
    return journal, list(keys)


def _exists(plan: Plan, key: TileKey) -> bool:
    if key.level >= len(plan.levels):
        return False
    grid = plan.levels[key.level].grid
    return key.row < grid.rows.count and key.col < grid.cols.count


def _clear(run: RunDir) -> None:
    """Empty a run's folder except for the lock and the inputs of the next run.

    What makes it an image goes first, what makes it a run's last.
    """
    (run.root / "zarr.json").unlink(missing_ok=True)
    for path in run.root.iterdir():
        if path != run.state:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in sorted(run.state.iterdir(), key=lambda path: path == run.job):
        if path not in (run.lock, run.attempts, run.incoming, run.arrays, run.submissions):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _reclaim(run: RunDir) -> None:
    # The staged input stays: verify reads it.
    for path in (run.state / "work", run.state / "measured", run.state / "regions"):
        shutil.rmtree(path, ignore_errors=True)
