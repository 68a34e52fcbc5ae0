"""The command `resume`: go on with a run or batch that is unfinished."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.batches.batch_run import resume_batch
from cluster.batches.folder import BatchFolder
from cluster.commands.restore import drive, report_outcome
from cluster.options import options as opt
from cluster.options.arguments import RunOrOut
from cluster.options.options import takes
from cluster.submission.handles import Handle, submitted_as
from cluster.submitted_runs.resubmit import resubmit
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec


@takes(
    *opt.SAMPLING,
    *("tile", "stride", "margin", "levels", "seed", "sigma", "scale", "task", "denoiser"),
    *opt.RUN,
)
def resume(
    out: RunOrOut,
    *,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Also when another driver works at OUT, because that one hangs."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    **given: Any,
) -> None:
    """Go on with an unfinished run or batch, where it was submitted or, with an option such as
    --executor ray, here.

    Where it runs may change; an option that would change pixels is refused.
    """
    here = take_over or any(value is not None for value in given.values())
    if here and (handle := Handle.parse(str(out))):
        raise PlanError(
            f"{handle} goes on as it was submitted, without options; `resume OUT` with options goes on here"
        )
    if not here and (handle := submitted_as(out)):
        raise typer.Exit(resubmit(handle))
    if BatchFolder(out).exists:
        here_only = {name: value for name, value in given.items() if value is not None}
        raise typer.Exit(resume_batch(out, here_only, take_over=take_over, quiet=quiet))
    from orchestrator.run import lifecycle as run
    from orchestrator.run_folder import RunDir

    spec = opt.job_spec(JobSpec.load(RunDir.existing(out).job), {**given, "output": out})
    report_outcome(
        drive(
            spec, quiet, lambda ex, on: run.resume(out, ex, on, changes=spec, take_over=take_over)
        )
    )
