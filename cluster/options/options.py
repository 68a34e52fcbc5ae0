"""The options of a job: one table that says of each what it means, where it goes in a JobSpec, and
how it is read.

Commands name those that they have (`takes`); the columns of a manifest are the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.options import parsers
from cluster.options.signature import Command, with_parameters
from orchestrator.job.bands import BANDS_AS, GREY_AS
from orchestrator.job.class_guidance import USUAL_SCALE
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.registry import TASKS
from orchestrator.planning.tiling_defaults import (
    PAPER_ORDER,
    PAPER_STRIDE,
    USUAL_ORDER,
    USUAL_STRIDE,
)
from orchestrator.scheduling.batch_policy import CPU_BATCH, GPU_BATCH
from orchestrator.tiling.axis import BLOCK

Job = Annotated[
    Path | None, typer.Option(help="A job file (TOML); other options override what it says.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

TASK_NAMES = tuple(TASKS)
USUAL = JobSpec()
USUAL_TASK = USUAL.kind
STRIDE = f"{USUAL_STRIDE} of a tile; intent paper: {PAPER_STRIDE}"
ORDER = f"{USUAL_ORDER}; intent paper: {PAPER_ORDER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of a job."""

    section: str
    """Of the JobSpec; empty for the spec itself."""
    field: str
    annotation: Any = None
    """For typer; None for what is an argument of its own in every command."""
    read: Callable[[Any], Any] | None = None
    """Makes the field's value of what was written."""


def _option(
    place: str,
    kind: Any,
    text: str,
    default: str | bool = True,
    *,
    flag: str | None = None,
    read: Callable[[Any], Any] | None = None,
) -> Option:
    """place: SECTION.FIELD; kind: type; default: in words, where leaving it out means something;
    flag: its name if another.
    """
    section, field = place.split(".")
    flags = () if flag is None else (flag,)
    default = _plain_default(section, field) or True if default is True else default
    annotation = Annotated[kind | None, typer.Option(*flags, help=text, show_default=default)]
    return Option(section=section, field=field, annotation=annotation, read=read)


def _plain_default(section: str, field: str) -> str | None:
    """Return a field's own default in words; None where leaving it out means that it is chosen."""
    default = getattr(getattr(USUAL, section) if section else USUAL, field)
    if isinstance(default, float):
        return f"{default:g}" if default else None
    return str(default) if isinstance(default, str | int) and default is not False else None


OPTIONS = {
    "path": Option(section="input", field="path", read=str),
    "output": Option(section="", field="output", read=str),
    "task": _option(
        "task.name",
        str,
        f"{', '.join(TASK_NAMES[:-1])} or {TASK_NAMES[-1]}.",
        USUAL_TASK.name,
    ),
    "scale": _option(
        "task.scale",
        int,
        "Output pixels per input pixel (sr).",
        f"{USUAL_TASK.default_scale} for {USUAL_TASK.name}",
    ),
    "sigma": _option(
        "task.sigma",
        str,
        "Noise of the input: grey levels of its dtype (25), percent of its range (10%), or auto.",
    ),
    "noise": _option(
        "task.noise",
        str,
        "denoise: noise that depends on brightness: poisson:GAIN[,READ[,OFFSET]], poisson:auto or "
        "speckle:LOOKS[,amplitude].",
    ),
    "mask": _option(
        "input.mask",
        str,
        "Inpainting: image of the input's size, white where it is known (from 7/8 of white).",
        read=str,
    ),
    "mask_holes": _option(
        "input.mask_holes", str, "Which end of the mask is unknown: black or white.", "black"
    ),
    "nodata": _option(
        "input.nodata", float, "Inpainting: samples of this value are unknown; nan too."
    ),
    "channel": _option(
        "input.channel",
        str,
        "Bands of IN, for example 0,2 (from 0).",
        "all but an alpha channel",
        read=parsers.parse_channels,
    ),
    "z": _option("input.z", int, "Plane of a stack, from 0.", flag="--z"),
    "t": _option("input.t", int, "Time point or page of IN, from 0.", flag="--t"),
    "max_pixels": _option(
        "input.max_pixels",
        int,
        "Largest size that IN may declare, px; given, IN may also take over 384 MiB to decode.",
    ),
    "pad": _option(
        "input.pad",
        str,
        "Outpainting: px to invent, TOP,RIGHT,BOTTOM,LEFT.",
        read=parsers.parse_pad,
    ),
    "kernel": _option("task.kernel", str, "How sr was reduced: average or bicubic."),
    "blur": _option(
        "task.blur",
        str,
        "deblur: uniform:TAPS, gaussian:SIGMA[:TAPS], anisotropic:SIGMA_Y,SIGMA_X[:TAPS] or a "
        "kernel file.",
    ),
    "ratio": _option(
        "task.ratio", float, "cs: kept share of the coefficients; restore reads it from IN."
    ),
    "block": _option("task.block", int, "cs: side of a block, px."),
    "operator": _option(
        "task.operator", str, "Your own operator, package.module:Class.", flag="--operator"
    ),
    "operator_args": _option(
        "task.operator_args",
        list[str],
        "KEY=VALUE for its constructor; may be repeated.",
        flag="--operator-arg",
        read=parsers.parse_arguments,
    ),
    "size": _option(
        "input.size",
        str,
        "HEIGHTxWIDTH of the input where there is no file (generate, plan).",
        read=parsers.parse_size,
    ),
    "denoiser": _option(
        ".denoiser",
        str,
        "builtin, guided-diffusion:PATH[#NETWORK], diffusers:FOLDER, prior:PATH, "
        "module:PACKAGE.MODULE:NAME ((x_t, t) -> eps), sigma:PACKAGE.MODULE:NAME (D(z, sigma) -> "
        "x0) or analytic:.",
        "builtin",
        flag="--denoiser",
    ),
    "region": _option(
        ".regions",
        list[str],
        "Y0,X0,Y1,X1:DENOISER[:CLASS], output px: restore a region with another network first. "
        "May repeat.",
        read=parsers.parse_regions,
    ),
    "label": _option(
        "guidance.label",
        int,
        "Class to draw, of a conditional network or --classifier.",
        flag="--class",
    ),
    "classifier": _option(
        "guidance.classifier",
        Path,
        "Guided-diffusion classifier that guides the network.",
        read=str,
    ),
    "guidance": _option(
        "guidance.scale", float, "Factor of the classifier's gradient.", f"{USUAL_SCALE:g}"
    ),
    "value_range": _option(
        "input.values",
        str,
        "Stored values LOW,HIGH of black and white; auto: as the file declares or its samples say; "
        "full: the limits of the dtype.",
        "full for 8 bit, else auto",
        flag="--range",
        read=parsers.parse_range,
    ),
    "grey_as": _option(
        "input.grey_as",
        str,
        "One band: replicate (in every channel) or mean (of the channels).",
        GREY_AS[0],
    ),
    "bands_as": _option(
        "input.bands_as",
        str,
        "Other bands than the network's: groups of its channels, or single.",
        BANDS_AS[0],
    ),
    "skip_flat": _option(
        "task.skip_flat",
        float,
        "Fill tiles whose measurement varies by no more grey levels, without the network.",
    ),
    "intent": _option(
        "sampling.intent",
        str,
        "faithful: nearest to the truth on average; detail: a sample; paper: the paper's settings.",
    ),
    "quality": _option(
        "sampling.quality",
        str,
        "draft, standard or paper: number of steps, from the measured trade-off.",
    ),
    "method": _option("sampling.method", str, "ddnm, repaint, ilvr, ddrm, pigdm or dps."),
    "zeta": _option("sampling.zeta", float, "dps: length of the gradient step.", "1"),
    "eta_b": _option("sampling.eta_b", float, "ddrm: weight of the measurement, 0 to 1.", "1"),
    "ilvr_stop": _option("sampling.ilvr_stop", int, "ilvr: last conditioned timestep.", "0: all"),
    "pins": _option(
        "sampling.pins",
        str,
        "Pixels of earlier tiles: replace (in the estimate), or gradient: pull the rest too.",
        "gradient where nothing is measured",
    ),
    "ddnm_plus": _option(
        "sampling.ddnm_plus",
        str,
        "ddnm with noise: projector (by range and null space) or scalar (the paper's).",
        "projector",
    ),
    "clip": _option(
        "sampling.clip",
        bool,
        "Clamp the clean estimate to black and white at every step.",
        "clip",
        flag="--clip/--no-clip",
    ),
    "form": _option("sampling.form", str, "posterior (DDPM step) or eps (Eq. 10)."),
    "steps": _option("sampling.steps", int, "Denoising steps per tile."),
    "eta": _option(
        "sampling.eta",
        str,
        "Share of fresh noise in form eps: 0 to 1, ddpm, or analytic.",
        read=parsers.parse_eta,
    ),
    "start": _option(
        "sampling.start", int, "First timestep of a warm start; leave out for the preset's."
    ),
    "noise_scale": _option("sampling.noise_scale", float, "Factor of all noise, 0 to 1."),
    "inverse": _option(
        "sampling.inverse", str, "A+ of average pooling: replicate (the paper's) or smooth."
    ),
    "guide": _option(
        "sampling.guide",
        str,
        "The coarser level: constraint at every step (the paper's), or start of the finer one "
        "only.",
    ),
    "ensemble": _option(
        "sampling.ensemble",
        str,
        "Symmetries the network is averaged over: 1, 2, 4, 8; cycle: another each step.",
        flag="--ensemble",
    ),
    "travel": _option(
        "sampling.travel",
        str,
        "Time travel LENGTH,REPEAT, for example 10,3.",
        read=parsers.parse_travel,
    ),
    "tile": _option("tiling.tile", int, "Side of a tile in px.", "the network's"),
    "stride": _option("tiling.stride", int, "Distance between tiles in px.", STRIDE),
    "margin": _option(
        "tiling.margin",
        int,
        "Outer px that a tile leaves to the next one.",
        "half the overlap; 0 for paper",
    ),
    "levels": _option("tiling.levels", int, "Restoration levels (HiR); 1 = none.", "automatic"),
    "order": _option("tiling.order", str, "raster, centre, bridge or colour.", ORDER),
    "order_block": _option(
        "tiling.block", int, "Tiles along a block's side, for the order bridge.", str(BLOCK)
    ),
    "seed": _option("sampling.seed", int, "Seed of all randomness."),
    "executor": _option("run.executor", str, "ray or serial.", flag="--executor"),
    "workers": _option("run.workers", int, "Workers.", "one per GPU, else per core"),
    "batch": _option(
        "run.batch",
        int,
        "Tiles per worker call.",
        f"{GPU_BATCH} on a GPU, {CPU_BATCH} on a CPU",
        flag="--batch-size",
    ),
    # Its name of old, before a batch was many images.
    "old_batch": Option(
        section="run",
        field="batch",
        annotation=Annotated[int | None, typer.Option("--batch", hidden=True)],
    ),
    "address": _option("run.address", str, "Ray cluster to use, HOST:PORT or auto.", "a local one"),
    "keep_work": _option(
        "run.keep_work", bool, "Keep the working arrays after publishing.", flag="--keep-work"
    ),
    "on_failed_tile": _option(
        "run.on_failed_tile",
        str,
        "A tile that keeps failing: stop (finish what does not need it, exit 1) or fill (with "
        "what was measured, flagged).",
    ),
    "drain_seconds": _option(
        "run.drain_seconds",
        float,
        "After Ctrl-C or SIGTERM: time for running batches to end.",
    ),
    "hang_seconds": _option(
        "run.hang_seconds",
        float,
        "How much beyond five times the usual a batch may take, store apart.",
    ),
    "store_seconds": _option(
        "run.store_seconds", float, "How long a failing store is tried again."
    ),
}
"""By name: a command's parameter and a manifest's column."""


def _between(first: str, last: str) -> tuple[str, ...]:
    names = list(OPTIONS)
    return tuple(names[names.index(first) : names.index(last) + 1])


RENAMED = {"old_batch": "batch"}
# Flags that are not the option's own name.
FLAGS = {"batch": "--batch-size"}

JOB = tuple(name for name in _between("task", "store_seconds") if name != "block")
"""Everything about a restoration."""
TASK = tuple(name for name in _between("task", "operator_args") if name != "block")
SAMPLING = _between("intent", "travel")
TILING = _between("tile", "order_block")
RUN = _between("executor", "store_seconds")


def takes(*names: str) -> Callable[[Command], Command]:
    """Give a command these options, before its keyword-only parameters; they reach it as `**given`,
    None where not given.
    """

    def extend(command: Command) -> Command:
        return with_parameters(command, {name: OPTIONS[name].annotation for name in names})

    return extend


def draws_freely(task: str | None) -> bool:
    """Tell whether a named task has no measurement, so that the one path that is given is OUT."""
    return task in TASKS and not TASKS[task].measured


def under_own_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that were given, those by a flag of old under their names of today."""
    return {RENAMED.get(name, name): value for name, value in given.items()}


def flag_of(name: str) -> str:
    """Return the flag of an option as it is typed."""
    return FLAGS.get(name, f"--{name.replace('_', '-')}")


def job_spec(base: JobSpec, given: dict[str, Any]) -> JobSpec:
    """Return `base` with the options that were given put in their sections; raises PlanError on a
    bad value.
    """
    values = base.model_dump(exclude_unset=True)
    for name, value in given.items():
        if value is None or value == []:
            continue
        option = OPTIONS[name]
        target = values.setdefault(option.section, {}) if option.section else values
        if name == "value_range":
            target.pop("values_from", None)
        if name == "sigma":
            target.pop("noise_from", None)
            target["sigma"], target["sigma_unit"] = parsers.parse_sigma(value)
        else:
            target[option.field] = option.read(value) if option.read else value
    if given.get("operator") is not None and given.get("task") is None:
        values["task"]["name"] = "operator"
    return JobSpec.build(values)
