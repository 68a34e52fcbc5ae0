"""The command `restore`: one image, from its file to the published result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.arguments import In, NewOut, Quiet
from cluster.options.exit_codes import FAILED, INTERRUPTED, complain, fail
from cluster.options.options import takes
from cluster.terminal.progress import ProgressView, duration
from orchestrator.api.job_runs import run_job
from orchestrator.errors import PlanError, RunError
from orchestrator.events import Event
from orchestrator.job.spec import JobSpec

if TYPE_CHECKING:
    from orchestrator.run.drive import Outcome

    Listeners = list[Callable[[Event], None]]


@takes(*opt.JOB)
def restore(
    source: In = None,
    out: NewOut = None,
    job: opt.Job = None,
    *,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier result at OUT.")
    ] = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Restore image IN into the OME-Zarr folder OUT.

    Without an input: `restore OUT --task generate --size HxW`.
    """
    spec = job_of({**given, "source": source, "out": out, "job": job}, "restore IN OUT [options]")
    outcome = drive(spec, quiet, lambda listeners: run_job(spec, listeners, overwrite=overwrite))
    report_outcome(outcome)


def job_of(parameters: Mapping[str, Any], usage: str) -> JobSpec:
    """Return the job that the parameters of `restore` describe; raises PlanError where no input is
    named, with the usage.
    """
    source = parameters["source"]
    out = parameters["out"]
    if out is None and opt.draws_freely(parameters["task"]):
        source, out = None, source

    job_file = parameters["job"]
    base = JobSpec.load(job_file) if job_file else JobSpec()
    options = {name: value for name, value in parameters.items() if name in opt.OPTIONS}
    spec = opt.job_spec(base, {**options, "path": source, "output": out})

    if spec.input.path is None and spec.kind.measured:
        raise PlanError(f"no input named; usage: gigarestore {usage}")
    return spec


def drive(spec: JobSpec, quiet: bool, run: Callable[[Listeners], Outcome]) -> Outcome:
    """Run a job with progress, and end the command with one line where it does not finish.

    A signal lets running batches end, a second one does not; everything committed stays.
    """
    from storage.errors import SupersededError

    go_on = f"go on with: gigarestore resume {spec.output}"
    with ProgressView(quiet) as progress:
        try:
            return run([progress])
        except KeyboardInterrupt:
            hint = f"; {go_on}" if spec.output else ""
            fail(f"interrupted, everything committed is kept{hint}", INTERRUPTED)
        except SupersededError as err:
            fail(str(err), FAILED)
        except RunError as err:
            fail(f"{err}; everything else is kept, {go_on}", FAILED)


def report_outcome(outcome: Outcome) -> None:
    """Print what became of a run: its size, tiles and time, and a warning of tiles that are not
    restored.
    """
    plan = outcome.plan
    megapixels = plan.height * plan.width / 1e6
    resumed = f" ({outcome.resumed} from before)" if outcome.resumed else ""
    filled = f", {outcome.filled} of them filled without the network" if outcome.filled else ""
    print(
        f"{outcome.root}: {plan.height}x{plan.width} px ({megapixels:.1f} Mpx), "
        f"{outcome.tiles} tiles{resumed}{filled}, "
        f"{duration(outcome.seconds)}"
    )
    from cluster.terminal.tables import range_lines

    for line in (*plan.inputs.findings, *range_lines(plan)):
        print(line)
    for line in plan.inputs.warnings:
        complain(f"warning: {line}")
    if outcome.substituted:
        complain(
            f"warning: {outcome.substituted} tiles could not be restored, what was measured "
            f"stands in for them; `gigarestore verify {outcome.root}` names them"
        )
