"""The command `degrade`: a measurement of a clean image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.options import takes
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec


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
    """Make a measurement of the clean image IN, with the operators that `restore` inverts."""
    from kernels.denoisers.denoiser_registry import describe
    from orchestrator.measurement.degrade import degrade as measure
    from orchestrator.planning.input_facts import resolve_task

    spec = opt.job_spec(JobSpec(), {**given, "path": source})
    try:
        if not spec.kind.coefficients:
            channels = describe(spec.denoiser).channels
            spec = spec.model_copy(update={"task": resolve_task(spec, channels)})
            spec.resolved_task()
        shape = measure(spec, out, seed, overwrite)
    except ValueError as err:
        raise PlanError(str(err)) from None
    print(f"{out}: {' x '.join(map(str, shape))} values")
