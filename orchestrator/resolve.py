"""Fill every "choose for me" of a job from the input, the denoiser and the presets; nothing is read but headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kernels.catalog import DenoiserInfo, describe
from kernels.presets import DENOISING, INTENTS, PAPER, Preset
from orchestrator.axis import BLOCK
from orchestrator.errors import PlanError
from orchestrator.plan import Plan, check_levels, dtype_range, fitting_margin, fitting_stride, fitting_tile
from orchestrator.rundir import RunDir
from orchestrator.spec import InputSpec, JobSpec, SamplingSpec, TaskSpec, TilingSpec
from orchestrator.tasks import FACTOR, Task
from orchestrator.trajectory import build_trajectory
from storage.errors import FormatError
from storage.open import inspect


def plan_job(spec: JobSpec) -> Plan:
    """Resolve and plan a job; raises PlanError on one line for everything that can be refused beforehand."""
    try:
        info = describe(spec.denoiser)
        resolved = resolve(spec, info)
        plan = Plan.build(resolved, info)
        for guided in (False, True):
            build_trajectory(resolved.sampling, info, guided=guided, denoising_sigma=None)
    except (FormatError, ValueError) as err:
        raise PlanError(str(err)) from None
    return plan


def load_plan(run: RunDir) -> Plan:
    """Return the plan of a run from its resolved job alone: neither its input nor its pixels are looked at."""
    spec = run.load_spec()
    optional = {"start", "guided_start", "block"}
    for name, section in (("sampling", spec.sampling), ("tiling", spec.tiling)):
        for field, value in section:
            if value is None and field not in optional:
                raise PlanError(
                    f"{run.job} does not say {name}.{field}; another version wrote it: restore to a new OUT"
                )
    try:
        return Plan.build(spec, describe(spec.denoiser))
    except ValueError as err:
        raise PlanError(str(err)) from None


def resolve(spec: JobSpec, info: DenoiserInfo) -> JobSpec:
    """Return the job with every field set that changes pixels."""
    task = Task.build(spec.task.name, spec.task.scale, spec.task.sigma)
    source = _input(spec.input, spec.task)
    assert source.size is not None, "_input fills the size"
    height, width = (side * task.scale for side in source.size)
    sampling = _sampling(spec.sampling, info, spec.task)
    return spec.model_copy(
        update={
            "input": source,
            "sampling": sampling,
            "tiling": _tiling(spec.tiling, task, info, height, width, local=sampling.intent != "paper"),
        }
    )


def _input(given: InputSpec, task: TaskSpec) -> InputSpec:
    masked, measured = "inpaint" in task.name, task.name != "generate"
    if not measured and given.path is not None:
        raise PlanError("task generate takes no input image; give --size HEIGHTxWIDTH instead")
    if masked and given.mask is None and given.path is not None:
        raise PlanError(f"task {task.name} needs --mask FILE: an image of the input's size, non-zero where it is known")
    if not masked and given.mask is not None:
        raise PlanError(f"task {task.name} takes no --mask; use --task inpaint")
    if given.path is None:
        if given.size is None:
            raise PlanError("no input: give an image file" + ("" if measured else " or --size HEIGHTxWIDTH"))
        return given.model_copy(update={"bands": given.bands or 3, "dtype": given.dtype or "uint8"})
    path = Path(given.path).absolute()
    info = inspect(path)
    dtype_range(info.dtype)
    mask = None
    if given.mask is not None:
        mask = Path(given.mask).absolute()
        found = inspect(mask)
        if (found.height, found.width) != (info.height, info.width):
            raise PlanError(
                f"mask {mask} is {found.height}x{found.width} px and the input {info.height}x{info.width}; "
                "give a mask of the input's size"
            )
    facts = {"size": (info.height, info.width), "bands": info.channels, "dtype": info.dtype}
    return given.model_copy(update={"path": str(path), "mask": None if mask is None else str(mask), **facts})


def _sampling(given: SamplingSpec, info: DenoiserInfo, task: TaskSpec) -> SamplingSpec:
    intent = given.intent or ("faithful" if info.name == "builtin" else "paper")
    presets = {"paper": PAPER, **INTENTS, **(DENOISING if task.name == "denoise" else {})}
    defaults = {**_fields(presets[intent]), "intent": intent}
    if given.start is not None:
        defaults |= {"init": "bicubic", "guided_start": given.start}
    if given.steps is not None:
        defaults["guided_steps"] = given.steps
    # The smooth inverse is no orthogonal projector, which noisy measurements need (method.md section 3).
    defaults["inverse"] = "replicate" if intent == "paper" or task.sigma > 0 else "smooth"
    if given.inverse == "smooth" and task.sigma > 0:
        raise PlanError("the smooth inverse serves noise-free measurements only; leave --sigma or --inverse smooth out")
    sampling = given.model_copy(update={k: v for k, v in defaults.items() if getattr(given, k) is None})
    for start in (sampling.start, sampling.guided_start):
        if start is not None and start >= info.n_timesteps:
            last = info.n_timesteps - 1
            raise PlanError(f"--start {start} is beyond the last timestep of {info.name}; choose 1 to {last}")
    return sampling


def _fields(preset: Preset) -> dict[str, Any]:
    return {
        "form": preset.form,
        "eta": preset.eta,
        "steps": preset.steps,
        "start": preset.start,
        "guided_start": preset.start,
        "guided_steps": preset.guided_steps or preset.steps,
        "spacing": preset.spacing,
        "init": "none" if preset.init == "none" else "bicubic",  # bicubic at scale 1 is the measurement itself
        "noise_scale": preset.noise_scale,
        "travel": (preset.travel_length, preset.travel_repeat),
    }


def _tiling(given: TilingSpec, task: Task, info: DenoiserInfo, height: int, width: int, *, local: bool) -> TilingSpec:
    """local: the sampling does not invent, so that what lies beyond a window decides how good its outer pixels are."""
    wanted = given.tile or info.tile
    levels = given.levels or task.deepest(height, width, wanted) + 1
    check_levels(task, levels)
    tile = given.tile or (info.tile if info.fixed_tile else fitting_tile(task, wanted, levels, info.multiple))
    # Where the margin gives context, a quarter of overlap loses nothing and saves half of the work (docs/RESULTS.md).
    stride = given.stride or fitting_stride(task, tile * 3 // 4 if local else tile // 2, tile, levels)
    order, margin, block = given.order or "raster", given.margin, given.block
    joined = order in ("bridge", "colour")  # by tiles that restore what the margins on both sides of them leave
    if margin is None:
        margin = fitting_margin(task, tile, stride, levels) if local or joined else 0
    if block is not None and order != "bridge":
        raise PlanError(f"--block is for the order bridge; leave it out with --order {order}")
    if order == "bridge":
        block = block or BLOCK
    filled = {"tile": tile, "stride": stride, "margin": margin, "levels": levels, "order": order, "block": block}
    return given.model_copy(update=filled)
