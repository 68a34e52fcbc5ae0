"""The options that several commands share, and how they become a JobSpec."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.errors import PlanError
from orchestrator.spec import JobSpec

Task = Annotated[
    str | None,
    typer.Option(
        help="sr, colorize, inpaint, denoise, deblur, cs, outpaint, generate, operator, sr+colorize or "
        "inpaint+colorize+sr.",
        show_default="sr",
    ),
]
Scale = Annotated[int | None, typer.Option(help="Output pixels per input pixel (sr).", show_default="4 for sr")]
Sigma = Annotated[
    str | None, typer.Option(help="Noise of the input: grey levels of its dtype (25), or percent of its range (10%).")
]
Mask = Annotated[str | None, typer.Option(help="Inpainting: image of the input's size, non-zero where it is known.")]
Nodata = Annotated[float | None, typer.Option(help="Inpainting: pixels of this value in every band are unknown.")]
Channel = Annotated[
    str | None, typer.Option(help="Bands of IN, for example 0,2 (from 0).", show_default="all but an alpha channel")
]
Z = Annotated[int | None, typer.Option("--z", help="Plane of a stack, from 0.")]
T = Annotated[int | None, typer.Option("--t", help="Time point or page of IN, from 0.")]
MaxPixels = Annotated[
    int | None,
    typer.Option(help="Largest size that IN may declare, px; given, IN may also take over 384 MiB to decode."),
]
Pad = Annotated[str | None, typer.Option(help="Outpainting: px to invent, TOP,RIGHT,BOTTOM,LEFT.")]
Kernel = Annotated[str | None, typer.Option(help="How sr was reduced: average or bicubic.", show_default="average")]
Blur = Annotated[
    str | None,
    typer.Option(
        help="deblur: uniform:TAPS, gaussian:SIGMA[:TAPS], anisotropic:SIGMA_Y,SIGMA_X[:TAPS] or a kernel file."
    ),
]
Ratio = Annotated[float | None, typer.Option(help="cs: kept share of the coefficients; restore reads it from IN.")]
Operator = Annotated[str | None, typer.Option("--operator", help="Your own operator, package.module:Class.")]
OperatorArg = Annotated[
    list[str] | None, typer.Option("--operator-arg", help="KEY=VALUE for its constructor; may be repeated.")
]
Size = Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the input where there is no file (generate, plan).")]
DenoiserRef = Annotated[
    str | None,
    typer.Option(
        "--denoiser",
        help="builtin, guided-diffusion:PATH, diffusers:FOLDER, prior:PATH, "
        "module:PACKAGE.MODULE:NAME ((x_t, t) -> eps), sigma:PACKAGE.MODULE:NAME (D(z, sigma) -> x0) or analytic:.",
        show_default="builtin",
    ),
]
Range = Annotated[
    str | None,
    typer.Option("--range", help="Stored values LOW,HIGH of black and white.", show_default="the limits of the dtype"),
]
GreyAs = Annotated[
    str | None,
    typer.Option(help="One band: replicate (in every channel) or mean (of the channels).", show_default="replicate"),
]
BandsAs = Annotated[
    str | None,
    typer.Option(help="Other bands than the network's: groups of its channels, or single.", show_default="groups"),
]
SkipFlat = Annotated[
    float | None, typer.Option(help="Fill tiles whose measurement varies by no more grey levels, without the network.")
]
Label = Annotated[int | None, typer.Option("--class", help="Class to draw, of a conditional network or --classifier.")]
Classifier = Annotated[Path | None, typer.Option(help="Guided-diffusion classifier that guides the network.")]
Guidance = Annotated[float | None, typer.Option(help="Factor of the classifier's gradient.", show_default="1")]
Region = Annotated[
    list[str] | None,
    typer.Option(
        help="Y0,X0,Y1,X1:DENOISER[:CLASS], output px: restore a region with another network first. May repeat."
    ),
]
Intent = Annotated[
    str | None,
    typer.Option(help="faithful: nearest to the truth on average; detail: a sample; paper: the paper's settings."),
]
Method = Annotated[str | None, typer.Option(help="ddnm, repaint, ilvr, ddrm, pigdm or dps.", show_default="ddnm")]
Zeta = Annotated[float | None, typer.Option(help="dps: length of the gradient step.", show_default="1")]
EtaB = Annotated[float | None, typer.Option(help="ddrm: weight of the measurement, 0 to 1.", show_default="1")]
IlvrStop = Annotated[int | None, typer.Option(help="ilvr: last conditioned timestep.", show_default="0: all")]
Quality = Annotated[
    str | None, typer.Option(help="draft, standard or paper: number of steps, from the measured trade-off.")
]
Form = Annotated[str | None, typer.Option(help="posterior (DDPM step) or eps (Eq. 10).")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps per tile.")]
Eta = Annotated[str | None, typer.Option(help="Share of fresh noise in form eps: 0 to 1, ddpm, or analytic.")]
Start = Annotated[int | None, typer.Option(help="First timestep of a warm start; leave out for the preset's.")]
Inverse = Annotated[str | None, typer.Option(help="A+ of average pooling: replicate (the paper's) or smooth.")]
Guide = Annotated[
    str | None,
    typer.Option(help="The coarser level: constraint at every step (the paper's), or start of the finer one only."),
]
EnsembleName = Annotated[
    str | None,
    typer.Option("--ensemble", help="Symmetries the network is averaged over: 1, 2, 4, 8; cycle: another each step."),
]
NoiseScale = Annotated[float | None, typer.Option(help="Factor of all noise, 0 to 1.")]
Travel = Annotated[str | None, typer.Option(help="Time travel LENGTH,REPEAT, for example 10,3.")]
Tile = Annotated[int | None, typer.Option(help="Side of a tile in px.", show_default="the network's")]
Stride = Annotated[int | None, typer.Option(help="Distance between tiles in px.", show_default="half a tile")]
Margin = Annotated[
    int | None,
    typer.Option(help="Outer px that a tile leaves to the next one.", show_default="half the overlap; 0 for paper"),
]
Levels = Annotated[int | None, typer.Option(help="Restoration levels (HiR); 1 = none.", show_default="automatic")]
Order = Annotated[
    str | None, typer.Option(help="raster, centre, bridge or colour.", show_default="centre; intent paper: raster")
]
OrderBlock = Annotated[
    int | None, typer.Option(help="Tiles along a block's side, for the order bridge.", show_default="16")
]
Seed = Annotated[int | None, typer.Option(help="Seed of all randomness.", show_default="0")]
ExecutorName = Annotated[str | None, typer.Option("--executor", help="ray or serial.", show_default="ray")]
Workers = Annotated[int | None, typer.Option(help="Workers.", show_default="one per GPU, else per core")]
Batch = Annotated[int | None, typer.Option(help="Tiles per worker call.", show_default="8 on a GPU, 1 on a CPU")]
Batching = Annotated[
    str | None,
    typer.Option(
        help="fair: tiles begin and end together; continuous: they join a batch at any step.", show_default="fair"
    ),
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use, HOST:PORT or auto.", show_default="a local one")]
KeepWork = Annotated[bool | None, typer.Option("--keep-work", help="Keep the working arrays after publishing.")]
OnFailedTile = Annotated[
    str | None,
    typer.Option(
        help="A tile that keeps failing: stop (finish what does not need it, exit 1) or fill (with what was measured, "
        "flagged).",
        show_default="stop",
    ),
]
DrainSeconds = Annotated[
    float | None, typer.Option(help="After Ctrl-C or SIGTERM: time for running batches to end.", show_default="30")
]
HangSeconds = Annotated[
    float | None,
    typer.Option(help="How much beyond five times the usual a batch may take, store apart.", show_default="60"),
]
StoreSeconds = Annotated[float | None, typer.Option(help="How long a failing store is tried again.", show_default="90")]
Job = Annotated[Path | None, typer.Option(help="A job file (TOML); other options override what it says.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def job_spec(base: JobSpec, given: dict[str, Any]) -> JobSpec:
    """Return `base` with the options that were given put in their sections; raises PlanError on a bad value."""
    values = base.model_dump()
    for name, value in given.items():
        if value is None or value == []:
            continue
        section, field = PLACES[name]
        target = values[section] if section else values
        if name == "sigma":
            target["sigma"], target["sigma_unit"] = parse_sigma(value)
        else:
            target[field] = PARSERS[name](value) if name in PARSERS else value
    task = values["task"]
    if given.get("operator") is not None and given.get("task") is None:
        task["name"] = "operator"
    if task["name"] == "sr" and task["scale"] == 1 and given.get("scale") is None:
        task["scale"] = 4
    return JobSpec.build(values)


def parse_sigma(text: str) -> tuple[float, str]:
    """Read a noise level: "25" in grey levels, "10%" of the dtype's range."""
    number, unit = (text[:-1], "fraction") if text.endswith("%") else (text, "levels")
    try:
        value = float(number)
    except ValueError:
        raise PlanError(f"--sigma {text!r} is no noise level; give grey levels (25) or a percentage (10%)") from None
    return (value / 100 if unit == "fraction" else value), unit


def parse_size(text: str, option: str = "--size", example: str = "512x768") -> tuple[int, int]:
    """Read HEIGHTxWIDTH."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise PlanError(f"{option} {text!r} is no size; give HEIGHTxWIDTH, for example {example}")
    return int(match[1]), int(match[2])


def parse_counts(text: str) -> list[int]:
    """Read whole numbers above 0 with commas between them."""
    if re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text) is None:
        raise PlanError(f"--workers {text!r} are no numbers of workers; give for example 1,8,16")
    return [int(count) for count in text.split(",")]


def parse_batchings(text: str) -> list[str]:
    """Read fair, continuous, or both with a comma."""
    found = text.split(",")
    if not set(found) <= {"fair", "continuous"}:
        raise PlanError(f"--batching {text!r} is unknown; give fair, continuous, or both with a comma")
    return found


def parse_range(text: str) -> tuple[float, float]:
    """Read LOW,HIGH."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise PlanError(f"--range {text!r} is no range; give LOW,HIGH of stored values, for example 0,4095") from None
    return low, high


def parse_channels(text: str) -> tuple[int, ...]:
    """Read N or N,N,..."""
    if re.fullmatch(r"\d+(,\d+)*", text) is None:
        raise PlanError(f"--channel {text!r} names no bands; give numbers from 0, for example 0,2")
    return tuple(int(band) for band in text.split(","))


def parse_regions(texts: list[str]) -> list[dict[str, Any]]:
    """Read Y0,X0,Y1,X1:DENOISER[:CLASS], once per region."""
    found = []
    for text in texts:
        match = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+):(.+?)(?::(\d+))?", text)
        if match is None:
            raise PlanError(f"--region {text!r} is no region; give Y0,X0,Y1,X1:DENOISER or ...:DENOISER:CLASS")
        *box, denoiser, label = match.groups()
        number = None if label is None else int(label)
        found.append({"box": tuple(map(int, box)), "denoiser": denoiser, "label": number})
    return found


def parse_travel(text: str) -> tuple[int, int]:
    """Read LENGTH,REPEAT."""
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if match is None:
        raise PlanError(f"--travel {text!r} is no time travel; give LENGTH,REPEAT, for example 10,3")
    return int(match[1]), int(match[2])


def parse_pad(text: str) -> tuple[int, ...]:
    """Read TOP,RIGHT,BOTTOM,LEFT."""
    if re.fullmatch(r"\d+,\d+,\d+,\d+", text) is None:
        raise PlanError(f"--pad {text!r} is no padding; give TOP,RIGHT,BOTTOM,LEFT in px, for example 0,64,0,64")
    return tuple(int(side) for side in text.split(","))


def parse_arguments(texts: list[str]) -> dict[str, str]:
    """Read KEY=VALUE, several times."""
    for text in texts:
        if "=" not in text:
            raise PlanError(f"--operator-arg {text!r} has no value; write KEY=VALUE")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def parse_eta(text: str) -> float | str:
    """Read a number or `ddpm`."""
    try:
        return text if text in ("ddpm", "analytic") else float(text)
    except ValueError:
        raise PlanError(f"--eta {text!r} is neither a number from 0 to 1 nor ddpm nor analytic") from None


PARSERS: dict[str, Callable[[Any], Any]] = {
    "size": parse_size,
    "travel": parse_travel,
    "value_range": parse_range,
    "channel": parse_channels,
    "region": parse_regions,
    "classifier": str,
    "eta": parse_eta,
    "pad": parse_pad,
    "operator_args": parse_arguments,
    "path": str,
    "mask": str,
    "output": str,
}
PLACES = {
    "path": ("input", "path"),
    "mask": ("input", "mask"),
    "size": ("input", "size"),
    "value_range": ("input", "values"),
    "grey_as": ("input", "grey_as"),
    "bands_as": ("input", "bands_as"),
    "nodata": ("input", "nodata"),
    "channel": ("input", "channel"),
    "z": ("input", "z"),
    "t": ("input", "t"),
    "max_pixels": ("input", "max_pixels"),
    "pad": ("input", "pad"),
    "kernel": ("task", "kernel"),
    "blur": ("task", "blur"),
    "ratio": ("task", "ratio"),
    "block": ("task", "block"),
    "operator": ("task", "operator"),
    "operator_args": ("task", "operator_args"),
    "output": ("", "output"),
    "denoiser": ("", "denoiser"),
    "region": ("", "regions"),
    "task": ("task", "name"),
    "scale": ("task", "scale"),
    "sigma": ("task", "sigma"),
    "skip_flat": ("task", "skip_flat"),
    "label": ("guidance", "label"),
    "classifier": ("guidance", "classifier"),
    "guidance": ("guidance", "scale"),
    "method": ("sampling", "method"),
    "zeta": ("sampling", "zeta"),
    "eta_b": ("sampling", "eta_b"),
    "ilvr_stop": ("sampling", "ilvr_stop"),
    "quality": ("sampling", "quality"),
    "intent": ("sampling", "intent"),
    "form": ("sampling", "form"),
    "eta": ("sampling", "eta"),
    "steps": ("sampling", "steps"),
    "start": ("sampling", "start"),
    "noise_scale": ("sampling", "noise_scale"),
    "inverse": ("sampling", "inverse"),
    "guide": ("sampling", "guide"),
    "ensemble": ("sampling", "ensemble"),
    "travel": ("sampling", "travel"),
    "seed": ("sampling", "seed"),
    "tile": ("tiling", "tile"),
    "stride": ("tiling", "stride"),
    "margin": ("tiling", "margin"),
    "levels": ("tiling", "levels"),
    "order": ("tiling", "order"),
    "order_block": ("tiling", "block"),
    "executor": ("run", "executor"),
    "workers": ("run", "workers"),
    "batch": ("run", "batch"),
    "batching": ("run", "batching"),
    "address": ("run", "address"),
    "keep_work": ("run", "keep_work"),
    "on_failed_tile": ("run", "on_failed_tile"),
    "drain_seconds": ("run", "drain_seconds"),
    "hang_seconds": ("run", "hang_seconds"),
    "store_seconds": ("run", "store_seconds"),
}
