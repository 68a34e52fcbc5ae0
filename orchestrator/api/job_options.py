"""The keyword arguments of a restoration: the options of the command line, with Python's values.

`PLACES` says where in a JobSpec each goes; the JobSpec checks them, as it does for the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import AUTO
from orchestrator.job.tasks.registry import TASKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.job.spec import JobSpec

Box: TypeAlias = tuple[int, int, int, int]
RegionOption: TypeAlias = tuple[Box, str] | tuple[Box, str, int]
"""((y0, x0, y1, x1) in px of the output, denoiser) and, for a conditional network, the class."""
MethodName = Literal["ddnm", "repaint", "ilvr", "ddrm", "pigdm", "dps"]
Intent = Literal["faithful", "detail", "paper"]
Quality = Literal["draft", "standard", "paper"]
Form = Literal["posterior", "eps"]
Order = Literal["raster", "centre", "bridge", "colour"]
Symmetries = Literal["1", "2", "4", "8", "cycle", 1, 2, 4, 8]
Kernel = Literal["average", "bicubic"]
ExecutorName = Literal["serial", "ray"]
TaskName = Literal[
    "sr",
    "colorize",
    "inpaint",
    "denoise",
    "generate",
    "sr+colorize",
    "inpaint+colorize+sr",
    "deblur",
    "cs",
    "outpaint",
    "operator",
]


class JobOptions(TypedDict, total=False):
    """Keyword arguments of `restore`, `start` and `plan`; what is left out is chosen for you.

    Lengths are px, levels are stored grey levels, times are seconds. None is the same as left out.
    """

    scale: int | None
    """Output pixels per input pixel along each axis (sr); 4 for sr where it is left out."""
    sigma: float | str | None
    """Noise of the input: its standard deviation in grey levels (25), "10%" of the range, or
    "auto": estimated from the image.
    """
    noise: str | None
    """denoise: noise that depends on brightness: "poisson:GAIN[,READ[,OFFSET]]", "poisson:auto" or
    "speckle:LOOKS[,amplitude]".
    """
    mask: str | os.PathLike[str] | NDArray[Any] | None
    """inpaint: array (H, W) or image file, white where the pixel is known (from 7/8 of white; 0
    and 1 have 1 as white); of the input's size or the output's.
    """
    mask_holes: Literal["black", "white"] | None
    """Which end of the mask is unknown; black where it is left out."""
    nodata: float | None
    """inpaint: samples of this value are unknown, band by band; NaN too."""
    channel: int | Sequence[int] | None
    """Bands to restore, counted from 0; all where it is left out."""
    z: int | None
    """Plane of a stack in a file, counted from 0."""
    t: int | None
    """Time point or page of a file, counted from 0."""
    max_pixels: int | None
    """Largest size that a file may declare, px."""
    pad: tuple[int, int, int, int] | None
    """outpaint: px to invent above, right of, below and left of the input."""
    kernel: Kernel | None
    """sr: how the input was reduced."""
    blur: str | NDArray[Any] | None
    """deblur: "uniform:TAPS", "gaussian:SIGMA[:TAPS]", "anisotropic:SIGMA_Y,SIGMA_X[:TAPS]", a
    kernel's file, or the kernel as an array of odd sides that sums to 1.
    """
    ratio: float | None
    """cs: kept share of the coefficients; read from the measurement where it is left out."""
    block: int | None
    """cs: side of a block, px."""
    operator: str | type | None
    """Your own operator: a class, or its name "package.module:Class"."""
    operator_args: Mapping[str, object] | None
    """Keyword arguments of its constructor; they reach it as text."""
    size: tuple[int, int] | None
    """(height, width) of the input where there is none: generate, and planning, px."""
    denoiser: str | None
    """builtin, guided-diffusion:PATH[#NETWORK], diffusers:FOLDER, prior:PATH,
    module:PACKAGE.MODULE:NAME, sigma:PACKAGE.MODULE:NAME or analytic:.
    """
    region: Sequence[RegionOption] | None
    """Regions of the output that another network restores first."""
    label: int | None
    """Class to draw, of a conditional network or the classifier."""
    classifier: str | os.PathLike[str] | None
    """File of a guided-diffusion classifier that guides the network."""
    guidance: float | None
    """Factor of the classifier's gradient."""
    value_range: (
        tuple[float, float] | Sequence[tuple[float, float]] | Literal["auto", "full"] | None
    )
    """Stored values of black and white, of all bands or of each; "auto": as the file declares or
    its samples say, "full": the limits of the dtype. full for 8 bit and auto for everything else
    where it is left out.
    """
    grey_as: Literal["replicate", "mean"] | None
    """How one band meets a network of several channels."""
    bands_as: Literal["groups", "single"] | None
    """How bands of another number than the network's channels meet it."""
    skip_flat: float | None
    """Fill tiles whose measurement varies by no more grey levels, without the network."""
    intent: Intent | None
    """faithful: nearest to the truth on average; detail: a sample; paper: the paper's settings."""
    quality: Quality | None
    """Number of steps, from the measured trade-off."""
    method: MethodName | None
    """How the measurement enters a step."""
    zeta: float | None
    """dps: length of the gradient step."""
    eta_b: float | None
    """ddrm: weight of the measurement, 0 to 1."""
    ilvr_stop: int | None
    """ilvr: last conditioned timestep."""
    pins: Literal["replace", "gradient"] | None
    """How pixels of earlier tiles enter a tile."""
    ddnm_plus: Literal["projector", "scalar"] | None
    """ddnm with noise: by range and null space, or the paper's one number."""
    clip: bool | None
    """Whether the clean estimate is clamped to black and white at every step."""
    form: Form | None
    """Form of a step: posterior (DDPM) or eps (Eq. 10)."""
    steps: int | None
    """Denoising steps of a tile."""
    eta: float | Literal["ddpm", "analytic"] | None
    """Share of fresh noise in form eps, 0 to 1."""
    start: int | None
    """First timestep of a warm start."""
    noise_scale: float | None
    """Factor of all noise, 0 to 1."""
    inverse: Literal["replicate", "smooth"] | None
    """A+ of average pooling."""
    guide: Literal["constraint", "start"] | None
    """How the coarser level enters."""
    ensemble: Symmetries | None
    """Symmetries that the network is averaged over."""
    travel: tuple[int, int] | None
    """Time travel: (length, repeat)."""
    tile: int | None
    """Side of a tile, px."""
    stride: int | None
    """Distance between tiles, px."""
    margin: int | None
    """Outer px that a tile leaves to the next one."""
    levels: int | None
    """Restoration levels; 1 = none coarser."""
    order: Order | None
    """In which order tiles may run."""
    order_block: int | None
    """order bridge: tiles along the side of a block."""
    seed: int | None
    """Seed of all randomness."""
    executor: ExecutorName | None
    """serial: in this process; ray: on Ray workers. ray where workers or address are given."""
    workers: int | None
    """Ray workers."""
    batch_size: int | None
    """Tiles of a call."""
    address: str | None
    """Ray cluster to use, HOST:PORT or auto; a local one where it is left out."""
    keep_work: bool | None
    """Keep the working arrays after publishing."""
    on_failed_tile: Literal["stop", "fill"] | None
    """What becomes of a tile that keeps failing."""
    drain_seconds: float | None
    """How long running batches may take to end when the run is cancelled, s."""
    hang_seconds: float | None
    """How much longer than five times the usual a batch may take, s."""
    store_seconds: float | None
    """How long a failing store is tried again, s."""


PLACES = {
    "task": "task.name",
    "scale": "task.scale",
    "sigma": "task.sigma",
    "noise": "task.noise",
    "mask": "input.mask",
    "mask_holes": "input.mask_holes",
    "nodata": "input.nodata",
    "channel": "input.channel",
    "z": "input.z",
    "t": "input.t",
    "max_pixels": "input.max_pixels",
    "pad": "input.pad",
    "kernel": "task.kernel",
    "blur": "task.blur",
    "ratio": "task.ratio",
    "block": "task.block",
    "operator": "task.operator",
    "operator_args": "task.operator_args",
    "size": "input.size",
    "denoiser": ".denoiser",
    "region": ".regions",
    "label": "guidance.label",
    "classifier": "guidance.classifier",
    "guidance": "guidance.scale",
    "value_range": "input.values",
    "grey_as": "input.grey_as",
    "bands_as": "input.bands_as",
    "skip_flat": "task.skip_flat",
    "intent": "sampling.intent",
    "quality": "sampling.quality",
    "method": "sampling.method",
    "zeta": "sampling.zeta",
    "eta_b": "sampling.eta_b",
    "ilvr_stop": "sampling.ilvr_stop",
    "pins": "sampling.pins",
    "ddnm_plus": "sampling.ddnm_plus",
    "clip": "sampling.clip",
    "form": "sampling.form",
    "steps": "sampling.steps",
    "eta": "sampling.eta",
    "start": "sampling.start",
    "noise_scale": "sampling.noise_scale",
    "inverse": "sampling.inverse",
    "guide": "sampling.guide",
    "ensemble": "sampling.ensemble",
    "travel": "sampling.travel",
    "tile": "tiling.tile",
    "stride": "tiling.stride",
    "margin": "tiling.margin",
    "levels": "tiling.levels",
    "order": "tiling.order",
    "order_block": "tiling.block",
    "seed": "sampling.seed",
    "executor": "run.executor",
    "workers": "run.workers",
    "batch_size": "run.batch",
    "address": "run.address",
    "keep_work": "run.keep_work",
    "on_failed_tile": "run.on_failed_tile",
    "drain_seconds": "run.drain_seconds",
    "hang_seconds": "run.hang_seconds",
    "store_seconds": "run.store_seconds",
}
"""Argument -> SECTION.FIELD of the JobSpec. A test holds it against the command line's table."""

OPTION_WORDS = frozenset(
    word
    for words in (MethodName, Intent, Quality, Form, Order, Kernel, ExecutorName)
    for word in get_args(words)
) | {*TASKS, "smooth", "replicate", "start", "constraint", "fill", "stop", "ddpm", "auto", "full"}
"""What an option can be set to, besides numbers."""


def build_spec(given: Mapping[str, Any], base: JobSpec | None = None) -> JobSpec:
    """Return the JobSpec of arguments, over `base`; raises PlanError for a bad or unknown one."""
    from orchestrator.job.spec import JobSpec

    values = (base or JobSpec()).model_dump(exclude_unset=True)
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        _put(values, name, value)
    if "operator" in chosen and "task" not in chosen:
        values["task"]["name"] = "operator"
    if "executor" not in chosen and base is None:
        values.setdefault("run", {})["executor"] = _usual_executor(chosen)
    return JobSpec.build(values)


def _usual_executor(chosen: Mapping[str, Any]) -> ExecutorName:
    """Return ray where Ray is asked for by what only Ray has, else this process itself.

    Starting Ray takes seconds and several processes, which nobody expects of a function call; the
    pixels are the same either way.
    """
    return "ray" if "workers" in chosen or "address" in chosen else "serial"


def _put(values: dict[str, Any], name: str, value: object) -> None:
    section, field = _place(name).split(".")
    target = values.setdefault(section, {}) if section else values
    if name == "value_range":
        target.pop("values_from", None)
    if name == "sigma":
        target.pop("noise_from", None)
        target["sigma"], target["sigma_unit"] = _noise_level(value)
    elif name == "blur" and not isinstance(value, str):
        target["weights"] = _kernel(value)
    else:
        target[field] = _read(name, value)


def _read(name: str, value: object) -> object:
    if name not in _READ:
        return value
    try:
        return _READ[name](value)
    except (TypeError, ValueError, AttributeError) as err:
        raise PlanError(f"{name}={value!r} cannot be read: {' '.join(str(err).split())}") from None


def _place(name: str) -> str:
    if name in PLACES:
        return PLACES[name]
    import difflib

    near = difflib.get_close_matches(name, PLACES, n=1)
    hint = f"did you mean {near[0]}=?" if near else "see gigarestore.JobOptions for all of them"
    raise PlanError(f"unknown argument {name}=; {hint}")


def _noise_level(value: object) -> tuple[float | str, str]:
    """Read a noise level: a number of grey levels, "10%" of the range, or "auto"."""
    text = str(value)
    if text == AUTO:
        return AUTO, "levels"
    number, unit = (text[:-1], "fraction") if text.endswith("%") else (text, "levels")
    try:
        level = float(number)
    except ValueError:
        raise PlanError(
            f"sigma={value!r} is no noise level; give grey levels (25), a percentage ('10%') or "
            "'auto'"
        ) from None
    return (level / 100 if unit == "fraction" else level), unit


def _kernel(value: Any) -> Any:
    """Return the weights of a blur given as an array."""
    import numpy as np

    from kernels.operators.stencil import from_weights
    from orchestrator.job.fields.blur import kernel_of

    try:
        return kernel_of(from_weights(np.asarray(value, dtype=np.float64), normalise=False))
    except ValueError as err:
        raise PlanError(f"blur=: {err}") from None


def _bands(value: Any) -> tuple[int, ...]:
    return (int(value),) if not isinstance(value, Sequence) else tuple(value)


def _class_name(value: Any) -> str:
    return value if isinstance(value, str) else f"{value.__module__}:{value.__qualname__}"


def _texts(value: Mapping[str, object]) -> dict[str, str]:
    return {name: str(argument) for name, argument in value.items()}


def _regions(value: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    found = []
    for region in value:
        if len(region) not in (2, 3):
            raise PlanError(
                f"region={region!r} is no region; give ((y0, x0, y1, x1), denoiser) or ((...), "
                "denoiser, label)"
            )
        label = region[2] if len(region) == 3 else None
        found.append({"box": tuple(region[0]), "denoiser": region[1], "label": label})
    return found


_READ: dict[str, Callable[[Any], Any]] = {
    "mask": os.fspath,
    "channel": _bands,
    "operator": _class_name,
    "operator_args": _texts,
    "region": _regions,
    "classifier": os.fspath,
    "ensemble": str,
}
"""Makes the field's value of what was given, where they differ."""
