"""The command `resume`: go on with a run or batch that is unfinished."""

from __future__ import annotations

from typing import Any

import typer

from cluster.batches.batch_run import resume_batch
from cluster.batches.folder import BatchFolder
from cluster.commands.restore import drive, report_outcome
from cluster.options import options as opt
from cluster.options.arguments import Quiet, RunOrOut, TakeOver
from cluster.options.options import takes
from cluster.submission.handles import Handle, submitted_as
from cluster.submitted_runs.resubmit import resubmit
from orchestrator.api.job_runs import resume_job
from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import AUTO
from orchestrator.job.spec import JobSpec

# Options that would change pixels: taken only to be refused where they differ from the run's.
FIXED = ("tile", "stride", "margin", "levels", "seed", "sigma", "scale", "task", "denoiser")


@takes(*opt.SAMPLING, *FIXED, *opt.RUN)
def resume(
    out: RunOrOut, *, take_over: TakeOver = False, quiet: Quiet = False, **given: Any
) -> None:
    """Go on with an unfinished run or batch, where it was submitted or here.

    It goes on here where an option such as --executor ray is given. Where it runs may change; an
    option that would change pixels is refused.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    here = take_over or bool(changes)
    if here and (handle := Handle.parse(str(out))):
        raise PlanError(
            f"{handle} goes on as it was submitted, without options; `resume OUT` with options "
            "goes on here"
        )
    if not here and (handle := submitted_as(out)):
        raise typer.Exit(resubmit(handle))
    if BatchFolder(out).exists:
        raise typer.Exit(resume_batch(out, changes, take_over=take_over, quiet=quiet))

    from orchestrator.run_folder import RunDir

    begun = JobSpec.load_resolved(RunDir.existing(out).job)
    if given["sigma"] == AUTO and begun.task.noise_from == "estimated":
        given = {**given, "sigma": None}  # it was estimated when the run began, and stays
    spec = opt.job_spec(begun, {**given, "output": out})
    outcome = drive(
        spec,
        quiet,
        lambda listeners: resume_job(out, listeners, changes=spec, take_over=take_over),
    )
    report_outcome(outcome)
