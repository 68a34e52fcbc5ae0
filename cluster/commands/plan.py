"""The command `plan`: what a restoration would take, before anything is restored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.arguments import In
from cluster.options.options import takes
from cluster.submission.settings import load
from cluster.terminal.node_advice import NodesAsked, Sizing, size_up
from orchestrator.job.spec import JobSpec

if TYPE_CHECKING:
    from orchestrator.job.plan import Plan
    from orchestrator.planning.estimate import Estimate
    from orchestrator.planning.forecast import Forecast


Nodes = Annotated[
    int | None, typer.Option(help="Nodes that you think of, for advice.", show_default=False)
]
Gpus = Annotated[int | None, typer.Option(help="GPUs of a node.", show_default=False)]
Cpus = Annotated[int | None, typer.Option(help="Cores of a node.", show_default=False)]
StepSeconds = Annotated[
    float | None,
    typer.Option(help="Seconds per network evaluation of one tile, for the time estimate."),
]
CallSeconds = Annotated[
    float,
    typer.Option(
        help="Seconds per network evaluation however many tiles, on top of --step-seconds a tile."
    ),
]
Measure = Annotated[bool, typer.Option("--measure", help="Time the denoiser on this machine.")]
Simulate = Annotated[
    bool | None,
    typer.Option(
        "--simulate/--no-simulate",
        help="Simulate 1 to 1024 workers.",
        show_default="up to 20,000 tiles",
    ),
]


@takes(*opt.JOB[: opt.JOB.index("executor")], "workers", "batch", "old_batch")
def plan(
    source: In = None,
    job: opt.Job = None,
    *,
    nodes: Nodes = None,
    gpus: Gpus = None,
    cpus: Cpus = None,
    step_seconds: StepSeconds = None,
    call_seconds: CallSeconds = 0.0,
    measure: Measure = False,
    simulate: Simulate = None,
    as_json: opt.AsJson = False,
    **given: Any,
) -> None:
    """Say what a restoration would take: tiles, memory, disk, time, and nodes that pay."""
    spec = opt.job_spec(JobSpec.load(job) if job else JobSpec(), {**given, "path": source})
    from orchestrator.planning.estimate import estimate
    from orchestrator.planning.flat_tiles import count_filled
    from orchestrator.planning.forecast import CHEAP_TILES, forecast, known_device
    from orchestrator.planning.network_trial import plan_tried

    planned = plan_tried(spec)
    device = known_device(planned, call_seconds, step_seconds)
    if measure:
        from orchestrator.planning.device_timing import measure_device

        device = measure_device(planned)

    tiles_per_call = planned.spec.run.batch or 1
    seconds = None if device is None else device.seconds(tiles_per_call) / tiles_per_call
    numbers = estimate(planned, given["workers"] or 1, seconds)
    filled = count_filled(planned)
    worth_simulating = numbers.tiles <= CHEAP_TILES if simulate is None else simulate
    outlook = forecast(planned, device, tiles_per_call, run=worth_simulating)
    advice = size_up(planned, outlook.parallelism, nodes_asked(nodes, cpus, gpus))

    if as_json:
        print_json(planned, numbers, filled, outlook, advice)
        return
    from cluster.terminal.tables import print_forecast, print_plan, print_sizing

    print_plan(planned, numbers, filled)
    print_sizing(advice)
    print_forecast(planned, outlook)


def print_json(
    planned: Plan, numbers: Estimate, filled: int | None, outlook: Forecast, advice: Sizing
) -> None:
    """Print a plan and all that is known of its cost as one document."""
    from storage.byte_source import redact

    document = {
        "spec": planned.spec.model_dump(mode="json"),
        "filled": filled,
        **numbers.as_dict(),
        "forecast": outlook.as_dict(),
        "recommended": advice.as_dict(),
    }
    print(redact(json.dumps(document)))


def nodes_asked(nodes: int | None, cpus: int | None, gpus: int | None) -> NodesAsked:
    """Return the nodes of the options, and where one is not given those of the settings of
    `submit`.
    """
    options = {"submit.nodes": nodes, "submit.cpus": cpus, "submit.gpus": gpus}
    loaded = load(options, Path.cwd(), os.environ)
    common = loaded.settings.submit
    return NodesAsked(
        nodes=common.nodes,
        cpus=common.cpus,
        gpus=common.gpus,
        by_name=any(key in loaded.origins for key in options),
    )
