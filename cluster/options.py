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
        help="sr, colorize, inpaint, denoise, generate, sr+colorize or inpaint+colorize+sr.", show_default="sr"
    ),
]
Scale = Annotated[int | None, typer.Option(help="Output pixels per input pixel (sr).", show_default="4 for sr")]
Sigma = Annotated[
    str | None, typer.Option(help="Noise of the input: grey levels of its dtype (25), or percent of its range (10%).")
]
Mask = Annotated[Path | None, typer.Option(help="Inpainting: image of the input's size, non-zero where it is known.")]
Size = Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the input where there is no file (generate, plan).")]
DenoiserRef = Annotated[
    str | None,
    typer.Option("--denoiser", help="builtin, analytic: or guided-diffusion:PATH.", show_default="builtin"),
]
Intent = Annotated[
    str | None,
    typer.Option(help="faithful: nearest to the truth on average; detail: a sample; paper: the paper's settings."),
]
Form = Annotated[str | None, typer.Option(help="posterior (DDPM step) or eps (Eq. 10).")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps per tile.")]
Eta = Annotated[str | None, typer.Option(help="Share of fresh noise in form eps: 0 to 1, or ddpm.")]
Start = Annotated[int | None, typer.Option(help="First timestep of a warm start; leave out for the preset's.")]
Inverse = Annotated[str | None, typer.Option(help="A+ of average pooling: replicate (the paper's) or smooth.")]
NoiseScale = Annotated[float | None, typer.Option(help="Factor of all noise, 0 to 1.")]
Travel = Annotated[str | None, typer.Option(help="Time travel LENGTH,REPEAT, for example 10,3.")]
Tile = Annotated[int | None, typer.Option(help="Side of a tile in px.", show_default="the network's")]
Stride = Annotated[int | None, typer.Option(help="Distance between tiles in px.", show_default="half a tile")]
Margin = Annotated[
    int | None,
    typer.Option(help="Outer px that a tile leaves to the next one.", show_default="half the overlap; 0 for paper"),
]
Levels = Annotated[int | None, typer.Option(help="Restoration levels (HiR); 1 = none.", show_default="automatic")]
Order = Annotated[str | None, typer.Option(help="raster, centre, bridge or colour.", show_default="raster")]
Block = Annotated[int | None, typer.Option(help="Tiles along a block's side, for the order bridge.", show_default="16")]
Seed = Annotated[int | None, typer.Option(help="Seed of all randomness.", show_default="0")]
ExecutorName = Annotated[str | None, typer.Option("--executor", help="ray or serial.", show_default="ray")]
Workers = Annotated[int | None, typer.Option(help="Workers.", show_default="one per GPU, else per core")]
Batch = Annotated[int | None, typer.Option(help="Tiles per worker call.", show_default="8 on a GPU, 1 on a CPU")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use, HOST:PORT or auto.", show_default="a local one")]
KeepWork = Annotated[bool | None, typer.Option("--keep-work", help="Keep the working arrays after publishing.")]
Job = Annotated[Path | None, typer.Option(help="A job file (TOML); other options override what it says.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def job_spec(base: JobSpec, given: dict[str, Any]) -> JobSpec:
    """Return `base` with the options that were given put in their sections; raises PlanError on a bad value."""
    values = base.model_dump()
    for name, value in given.items():
        if value is None:
            continue
        section, field = PLACES[name]
        target = values[section] if section else values
        if name == "sigma":
            target["sigma"], target["sigma_unit"] = parse_sigma(value)
        else:
            target[field] = PARSERS[name](value) if name in PARSERS else value
    task = values["task"]
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


def parse_travel(text: str) -> tuple[int, int]:
    """Read LENGTH,REPEAT."""
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if match is None:
        raise PlanError(f"--travel {text!r} is no time travel; give LENGTH,REPEAT, for example 10,3")
    return int(match[1]), int(match[2])


def parse_eta(text: str) -> float | str:
    """Read a number or `ddpm`."""
    try:
        return text if text == "ddpm" else float(text)
    except ValueError:
        raise PlanError(f"--eta {text!r} is neither a number from 0 to 1 nor ddpm") from None


PARSERS: dict[str, Callable[[Any], Any]] = {
    "size": parse_size,
    "travel": parse_travel,
    "eta": parse_eta,
    "path": str,
    "mask": str,
    "output": str,
}
PLACES = {
    "path": ("input", "path"),
    "mask": ("input", "mask"),
    "size": ("input", "size"),
    "output": ("", "output"),
    "denoiser": ("", "denoiser"),
    "task": ("task", "name"),
    "scale": ("task", "scale"),
    "sigma": ("task", "sigma"),
    "intent": ("sampling", "intent"),
    "form": ("sampling", "form"),
    "eta": ("sampling", "eta"),
    "steps": ("sampling", "steps"),
    "start": ("sampling", "start"),
    "noise_scale": ("sampling", "noise_scale"),
    "inverse": ("sampling", "inverse"),
    "travel": ("sampling", "travel"),
    "seed": ("sampling", "seed"),
    "tile": ("tiling", "tile"),
    "stride": ("tiling", "stride"),
    "margin": ("tiling", "margin"),
    "levels": ("tiling", "levels"),
    "order": ("tiling", "order"),
    "block": ("tiling", "block"),
    "executor": ("run", "executor"),
    "workers": ("run", "workers"),
    "batch": ("run", "batch"),
    "address": ("run", "address"),
    "keep_work": ("run", "keep_work"),
}
