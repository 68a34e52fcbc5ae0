"""A JobSpec, run here: the executor that it names, the wish to stop, and nothing else. The command
line and the Python API both come through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.events import Listener
from orchestrator.job.spec import JobSpec, RunSpec
from orchestrator.shutdown import Stop

if TYPE_CHECKING:
    from orchestrator.ray_backend.executor import RayExecutor
    from orchestrator.run.drive import Outcome
    from orchestrator.run.serial_executor import SerialExecutor


def pick_executor(run: RunSpec, stop: Stop) -> RayExecutor | SerialExecutor:
    """Return the executor that a job asks for; only that one is loaded."""
    if run.executor == "serial":
        from orchestrator.run.serial_executor import SerialExecutor

        return SerialExecutor(stop)
    from orchestrator.ray_backend.executor import RayExecutor

    return RayExecutor(run.workers, run.batch, run.address, stop=stop)


def run_job(
    spec: JobSpec,
    listeners: Sequence[Listener] = (),
    *,
    overwrite: bool = False,
    stop: Stop | None = None,
) -> Outcome:
    """Restore spec.input into spec.output.

    stop: how to end it from elsewhere; signals are handled on the main thread only, while it runs.
    Raises PlanError before anything is written, RunError when `resume_job` can go on, and
    KeyboardInterrupt when it was asked to stop.
    """
    from orchestrator.run import lifecycle

    stop = stop or Stop(spec.run.drain_seconds)
    with stop.listening():
        executor = pick_executor(spec.run, stop)
        return lifecycle.start(spec, executor, listeners, overwrite=overwrite)


def resume_job(
    root: Path,
    listeners: Sequence[Listener] = (),
    *,
    changes: JobSpec | None = None,
    take_over: bool = False,
    stop: Stop | None = None,
) -> Outcome:
    """Go on with the run at `root`; arguments and errors as for `run_job`.

    changes: the run's options with those that are to differ; those that would change pixels are
    refused. take_over: also when another driver works there.
    """
    from orchestrator.run import lifecycle
    from orchestrator.run_folder import RunDir

    spec = changes or JobSpec.load_resolved(RunDir.existing(root).job)
    stop = stop or Stop(spec.run.drain_seconds)
    with stop.listening():
        executor = pick_executor(spec.run, stop)
        return lifecycle.resume(root, executor, listeners, changes=changes, take_over=take_over)
