"""The command `restore`: one image, from its file to the published result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.arguments import In
from cluster.options.executors import pick
from cluster.options.exit_codes import FAILED, INTERRUPTED, fail
from cluster.options.options import takes
from cluster.terminal.progress import ProgressView, duration
from orchestrator.errors import PlanError, RunError
from orchestrator.events import Event
from orchestrator.job.spec import JobSpec

if TYPE_CHECKING:
    from orchestrator.job.plan import Plan
    from orchestrator.run.lifecycle import Outcome
    from orchestrator.run.session import Executor


@takes(*opt.JOB)
def restore(
    source: In = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="Folder for the result, an OME-Zarr image.")
    ] = None,
    job: opt.Job = None,
    *,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier result at OUT.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    **given: Any,
) -> None:
    """Restore image IN into the OME-Zarr folder OUT (task generate: `restore OUT --task generate
    --size HxW`).
    """
    if given["task"] == "generate" and out is None:
        source, out = None, source
    spec = opt.job_spec(
        JobSpec.load(job) if job else JobSpec(), {**given, "path": source, "output": out}
    )
    if spec.input.path is None and spec.task.name != "generate":
        raise PlanError("no input named; usage: gigarestore restore IN OUT [options]")
    from orchestrator.run import lifecycle as run

    report_outcome(drive(spec, quiet, lambda ex, on: run.start(spec, ex, on, overwrite=overwrite)))


def drive(
    spec: JobSpec, quiet: bool, go: Callable[[Executor, list[Callable[[Event], None]]], Outcome]
) -> Outcome:
    """Run with progress; a signal lets running batches end, a second one does not; everything
    committed stays.
    """
    from orchestrator.shutdown import Stop
    from storage.errors import SupersededError

    stop = Stop(spec.run.drain_seconds)
    executor = pick(spec.run, stop)
    stop.listen()
    with ProgressView(quiet) as progress:
        try:
            return go(executor, [progress])
        except KeyboardInterrupt:
            where = f"; go on with: gigarestore resume {spec.output}" if spec.output else ""
            fail(f"interrupted, everything committed is kept{where}", INTERRUPTED)
        except SupersededError as err:
            fail(str(err), FAILED)
        except RunError as err:
            fail(
                f"{err}; everything else is kept, go on with: gigarestore resume {spec.output}",
                FAILED,
            )


def report_outcome(outcome: Outcome) -> None:
    plan: Plan = outcome.plan
    megapixels = plan.height * plan.width / 1e6
    resumed = f" ({outcome.resumed} from before)" if outcome.resumed else ""
    filled = f", {outcome.filled} of them filled without the network" if outcome.filled else ""
    print(
        f"{outcome.root}: {plan.height}x{plan.width} px ({megapixels:.1f} Mpx), "
        f"{outcome.tiles} tiles{resumed}{filled}, "
        f"{duration(outcome.seconds)}"
    )
    if outcome.substituted:
        print(
            f"gigarestore: warning: {outcome.substituted} tiles could not be restored, what was measured stands in for "
            f"them; `gigarestore verify {outcome.root}` names them",
            file=sys.stderr,
        )
