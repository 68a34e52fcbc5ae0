"""The command `gigarestore`. Importing this module loads neither torch, ray nor zarr; each command
loads what it needs.

Exit codes: 0 done, 2 bad input or usage, 1 failed but resumable, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cluster.batches.folder import BatchFolder
from cluster.bench import commands as bench
from cluster.commands import evaluate, submit, train
from cluster.commands import report as observe
from cluster.commands import submissions as submitted
from cluster.commands.batch import batch, resume_batch
from cluster.commands.export import export
from cluster.commands.info import info
from cluster.doctor.local_checks import doctor
from cluster.options import options as opt
from cluster.options.executors import pick
from cluster.options.options import takes
from cluster.submission.handles import Handle, submitted_as
from cluster.terminal.progress import ProgressView, duration
from orchestrator.errors import PlanError, RunError
from orchestrator.events import Event
from orchestrator.job.spec import JobSpec

if TYPE_CHECKING:
    from orchestrator.job.plan import Plan
    from orchestrator.run.lifecycle import Outcome
    from orchestrator.run.session import Executor

app = typer.Typer(
    name="gigarestore",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Restore images of unlimited size with pre-trained diffusion models (DDNM, MSR, HiR) on Ray and Zarr.",
)
app.add_typer(bench.app, name="bench")
app.command()(info)
app.command()(observe.status)
app.command()(observe.report)
app.command()(batch)
app.command(context_settings=submit.CONTEXT)(submit.submit)
app.command()(submitted.logs)
app.command()(submitted.cancel)
app.command()(submitted.wait)
app.command("list")(submitted.list_runs)
app.add_typer(submitted.config, name="config")
app.command()(train.train)
app.command()(evaluate.evaluate)

DONE = 0
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

# typer brings its own copy of click in some versions and uses the installed one in others.
ClickException: type[Exception] = next(
    k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException"
)

In = Annotated[
    str | None, typer.Argument(metavar="IN", help="An image file, a zarr folder, or a URL of one.")
]
Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of the result, an OME-Zarr image.")
]
RunOrOut = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of the result, or a submitted run's handle.")
]


@app.command()
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

    _report(_drive(spec, quiet, lambda ex, on: run.start(spec, ex, on, overwrite=overwrite)))


@app.command()
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
        raise typer.Exit(submitted.resubmit(handle))
    if BatchFolder(out).exists:
        here_only = {name: value for name, value in given.items() if value is not None}
        raise typer.Exit(resume_batch(out, here_only, take_over=take_over, quiet=quiet))
    from orchestrator.run import lifecycle as run
    from orchestrator.run_folder import RunDir

    spec = opt.job_spec(JobSpec.load(RunDir.existing(out).job), {**given, "output": out})
    _report(
        _drive(
            spec, quiet, lambda ex, on: run.resume(out, ex, on, changes=spec, take_over=take_over)
        )
    )


@app.command()
@takes(*opt.JOB[: opt.JOB.index("executor")], "workers", "batch")
def plan(
    source: In = None,
    job: opt.Job = None,
    *,
    nodes: Annotated[
        int | None, typer.Option(help="Nodes that you think of, for advice.", show_default=False)
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of a node.", show_default=False)] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores of a node.", show_default=False)] = None,
    step_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds per network evaluation of one tile, for the time estimate."),
    ] = None,
    call_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds per network evaluation whatever the batch, on top of --step-seconds a tile."
        ),
    ] = 0.0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the denoiser on this machine.")
    ] = False,
    simulate: Annotated[
        bool | None,
        typer.Option(
            "--simulate/--no-simulate",
            help="Simulate 1 to 1024 workers.",
            show_default="up to 20,000 tiles",
        ),
    ] = None,
    as_json: opt.AsJson = False,
    **given: Any,
) -> None:
    """Say what a restoration would take: tiles, levels, NFE, critical path, nodes that pay, memory,
    disk, time.
    """
    from cluster.submission.settings import load
    from cluster.terminal.node_advice import size_up
    from orchestrator.planning.estimate import estimate
    from orchestrator.planning.flat_tiles import count_filled
    from orchestrator.planning.forecast import CHEAP_TILES, forecast, known_device
    from orchestrator.planning.resolve import plan_job

    planned = plan_job(
        opt.job_spec(JobSpec.load(job) if job else JobSpec(), {**given, "path": source})
    )
    device = known_device(planned, call_seconds, step_seconds)
    if measure:
        from orchestrator.planning.device_timing import measure_device

        device = measure_device(planned)
    tiles = planned.spec.run.batch or 1
    numbers = estimate(
        planned, given["workers"] or 1, None if device is None else device.seconds(tiles) / tiles
    )
    filled = count_filled(planned)
    worth = numbers.tiles <= CHEAP_TILES if simulate is None else simulate
    outlook = forecast(planned, device, tiles, run=worth)
    asked = load(
        {"submit.nodes": nodes, "submit.gpus": gpus, "submit.cpus": cpus}, Path.cwd(), os.environ
    )
    advice = size_up(planned, outlook.parallelism, asked)
    if as_json:
        spec = planned.spec.model_dump(mode="json")
        from storage.byte_source import redact

        found = {"spec": spec, "filled": filled, **numbers.as_dict(), "forecast": outlook.as_dict()}
        found["recommended"] = advice.as_dict()
        print(redact(json.dumps(found)))
        return
    from cluster.terminal.tables import print_forecast, print_plan, print_sizing

    print_plan(planned, numbers, filled)
    print_sizing(advice)
    print_forecast(planned, outlook)


@app.command()
@takes(*opt.TASK, "block")
def degrade(
    source: Annotated[str, typer.Argument(metavar="IN", help="Clean image.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help=".png, .tif or .tiff; for cs a folder, .zarr.")
    ],
    *,
    seed: Annotated[int, typer.Option(help="Seed of the noise, and of what cs keeps.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    **given: Any,
) -> None:
    """Make a measurement of the clean image IN, with exactly the operators that `restore` inverts."""
    from kernels.denoisers.denoiser_registry import describe
    from orchestrator.job.tasks import Task
    from orchestrator.measurement.degrade import degrade as measure
    from orchestrator.planning.input_facts import resolve_task

    spec = opt.job_spec(JobSpec(), {**given, "path": source})
    try:
        if spec.task.name != "cs":
            spec = spec.model_copy(update={"task": resolve_task(spec, describe(spec.denoiser))})
            Task.of(spec)
        shape = measure(spec, out, seed, overwrite)
    except ValueError as err:
        raise PlanError(str(err)) from None
    print(f"{out}: {' x '.join(map(str, shape))} values")


@app.command()
def verify(out: Out, as_json: opt.AsJson = False) -> None:
    """Check the published image: A x = y over the whole image, seams, completeness. Exit 1 when it
    does not hold.
    """
    from orchestrator.run.verify import verify_run

    found = verify_run(out)
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        from cluster.terminal.tables import print_verification

        print_verification(found)
    if not found.passed:
        raise typer.Exit(FAILED)


app.command()(export)


app.command()(doctor)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path(
        "demo-out"
    ),
    workers: Annotated[int, typer.Option(help="Ray workers.")] = 2,
) -> None:
    """Restore a real photograph x4 on Ray with the built-in network, verify it, and draw a
    comparison.
    """
    from cluster.commands.demo import run_demo

    raise typer.Exit(run_demo(out, workers))


def _drive(
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
            _fail(f"interrupted, everything committed is kept{where}", INTERRUPTED)
        except SupersededError as err:
            _fail(str(err), FAILED)
        except RunError as err:
            _fail(
                f"{err}; everything else is kept, go on with: gigarestore resume {spec.output}",
                FAILED,
            )


def _report(outcome: Outcome) -> None:
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


def _fail(message: str, code: int) -> NoReturn:
    complain(message)
    raise typer.Exit(code)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; bad input and usage are one line on stderr and exit code 2."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    from storage.errors import DamagedError, FormatError

    try:
        code: Any = app(args=arguments, standalone_mode=False)
        return int(code or DONE)
    except typer.Exit as err:
        return err.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("gigarestore: interrupted", file=sys.stderr)
        return INTERRUPTED
    except DamagedError as err:  # found while reading pixels: nothing the user asked for was wrong
        complain(str(err))
        return FAILED
    except (PlanError, FormatError) as err:
        message = str(err)
    except ClickException as err:
        message = err.format_message()  # type: ignore[attr-defined]
    except OSError as err:
        message = f"{err.strerror or err}{f': {err.filename}' if err.filename else ''}"
        complain(message)
        return FAILED
    complain(message)
    return BAD_INPUT


def complain(message: str) -> None:
    """Print one line, without what a URL in it may carry of credentials."""
    from storage.byte_source import redact

    print(f"gigarestore: {redact(' '.join(message.split()))}", file=sys.stderr)
