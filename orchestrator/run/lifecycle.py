"""run: begin or resume a restoration, drive it with an executor, publish. The order of its steps is
the safety argument.

Nothing is created before everything that can be refused has been refused; the job file is written
before the journal, the journal's header before the first tile; the published metadata last of all.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.errors import PlanError, RunError
from orchestrator.events import Listener
from orchestrator.job.plan import Plan
from orchestrator.job.spec import JobSpec
from orchestrator.planning.estimate import disk_bytes
from orchestrator.planning.fingerprint import Fingerprint, check_same, fingerprint, task_marks
from orchestrator.planning.network_trial import plan_tried
from orchestrator.planning.resolve import keep_range, keep_reading, keep_regions, plan_job
from orchestrator.retry import disk_full
from orchestrator.run.drive import Outcome, drive
from orchestrator.run.prepare import (
    adopt_staged,
    check_disk,
    prepare,
    stage_beside,
)
from orchestrator.run.session import Executor
from orchestrator.run_folder import RunDir, check_output
from storage import atomic_files
from storage.errors import FormatError
from storage.run_store.fencing import Attempt
from storage.run_store.journal import read_header
from storage.run_store.run_lock import RunLock


def start(
    spec: JobSpec, executor: Executor, listeners: Sequence[Listener] = (), overwrite: bool = False
) -> Outcome:
    """Restore spec.input into spec.output; raises PlanError before anything is written, RunError
    when resumable.
    """
    plan = plan_tried(spec)
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
        return drive(run, plan, marks, executor, listeners, attempt)


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
        begun_as = JobSpec.load_resolved(run.job)
        changes = keep_reading(changes, begun_as)
        check_same(_marks(begun_as), _marks(changes))
        changes = keep_regions(keep_range(changes, begun_as), run)
    plan = plan_job(JobSpec.load_resolved(run.job) if changes is None else changes, run)
    begun = read_header(run.journal)["fingerprint"] if run.journal.exists() else None
    marks = fingerprint(plan, _of_staged(run, begun or {}))
    if begun is not None:  # what is refused leaves no mark, not even an attempt's number
        check_same(begun, marks)
    with _alone(run, take_over=take_over) as attempt, _room(run, plan):
        return drive(run, plan, marks, executor, listeners, attempt)


@contextlib.contextmanager
def _alone(run: RunDir, *, take_over: bool = False) -> Iterator[Attempt]:
    """Hold the run: no other driver works there, on this machine (lock) or another (attempt)."""
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
            f"{run.root}: the disk is full ({err.strerror}): {free / 1e6:.0f} MB are free, the "
            f"whole run takes about {disk_bytes(plan) / 1e6:.0f} MB; free some"
        ) from err


def _of_staged(run: RunDir, begun: Fingerprint) -> dict[str, str]:
    """Return the hashes that a run's fingerprint states of inputs of which it holds copies."""
    copies = {
        "input": run.staged_input,
        "valid_file": run.staged_input,
        "mask": run.staged_mask,
    }
    return {name: begun[name] for name, path in copies.items() if path.exists() and name in begun}


def _marks(spec: JobSpec) -> Fingerprint:
    """Return what of a specification decides pixels, by name: a changed option is found before it
    meets another.
    """
    sections = {
        "task": task_marks(spec.task),
        "sampling": spec.sampling.model_dump(mode="json"),
        "tiling": spec.tiling.model_dump(mode="json"),
    }
    return {
        f"{name}.{field}": value
        for name, values in sections.items()
        for field, value in values.items()
    }


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
