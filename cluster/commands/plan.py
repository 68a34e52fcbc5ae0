"""The command `plan`: what a restoration would take, before anything is restored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.arguments import In
from cluster.options.options import takes
from cluster.submission.settings import load
from cluster.terminal.node_advice import NodesAsked, size_up
from orchestrator.job.spec import JobSpec


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
    asked = nodes_asked(nodes, cpus, gpus)
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
