"""Fill every "choose for me" of a job from the input, the denoiser and the presets; nothing is read but headers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kernels.catalog import DenoiserInfo, absolute_ref
from kernels.presets import DENOISING, INTENTS, PAPER, Preset
from orchestrator.errors import PlanError
from orchestrator.guiding import check_tile, describe_network, resolve_guidance
from orchestrator.plan import Plan, check_levels, dtype_range, fitting_margin, fitting_stride, fitting_tile
from orchestrator.regions import Region, check_apart, check_stored, grown, region_job
from orchestrator.rundir import RunDir
from orchestrator.spec import InputSpec, JobSpec, SamplingSpec, TaskSpec, TilingSpec
from orchestrator.tasks import Task
from orchestrator.trajectory import build_trajectory
from storage.box import Box
from storage.errors import FormatError
from storage.open import inspect


def plan_job(spec: JobSpec) -> Plan:
    """Resolve and plan a job; raises PlanError on one line for everything that can be refused beforehand."""
    try:
        info = describe_network(spec.denoiser, spec.guidance)
        resolved = resolve(spec, info)
        plan = Plan.build(resolved, info)
        if spec.regions:
            plan = _with_regions(spec, plan)
        check_tile(resolved.guidance, plan.tile)
        for guided in (False, True):
            build_trajectory(resolved.sampling, info, guided=guided, denoising_sigma=None)
    except (FormatError, ValueError) as err:
        raise PlanError(str(err)) from None
    return plan


def load_plan(run: RunDir) -> Plan:
    """Return the plan of a run from its resolved job alone: neither its input nor its pixels are looked at."""
    spec = run.load_spec()
    optional = {"start", "guided_start"}
    for name, section in (("sampling", spec.sampling), ("tiling", spec.tiling)):
        for field, value in section:
            if value is None and field not in optional:
                raise PlanError(
                    f"{run.job} does not say {name}.{field}; another version wrote it: restore to a new OUT"
                )
    try:
        plan = Plan.build(spec, describe_network(spec.denoiser, spec.guidance))
        jobs = [region_job(spec, i) for i in range(len(spec.regions))]
        plans = [Plan.build(job, describe_network(job.denoiser, job.guidance)) for job in jobs]
        found = zip(spec.regions, plans, strict=True)
        return replace(plan, regions=tuple(Region(box=Box(*region.box), plan=part) for region, part in found))
    except ValueError as err:
        raise PlanError(str(err)) from None


def _with_regions(spec: JobSpec, plan: Plan) -> Plan:
    """Plan every region as a job of its own, and keep what was chosen for it in the main job; spec: as it was given."""
    grown_regions = tuple(grown(region, plan) for region in spec.regions)
    check_apart(grown_regions)
    given = plan.spec.model_copy(update={"regions": grown_regions, "sampling": spec.sampling})
    plans = [plan_job(region_job(given, i)) for i in range(len(grown_regions))]
    kept = tuple(
        region.model_copy(
            update={
                "denoiser": part.spec.denoiser,
                "sampling": part.spec.sampling,
                "tiling": part.spec.tiling,
            }
        )
        for region, part in zip(grown_regions, plans, strict=True)
    )
    regions = tuple(Region(box=Box(*r.box), plan=part) for r, part in zip(kept, plans, strict=True))
    check_stored(plan, regions)
    return replace(plan, spec=plan.spec.model_copy(update={"regions": kept}), regions=regions)


def resolve(spec: JobSpec, info: DenoiserInfo) -> JobSpec:
    """Return the job with every field set that changes pixels."""
    task = Task.build(spec.task.name, spec.task.scale, spec.task.sigma)
    source = _input(spec.input, spec.task, info.channels)
    source = source.model_copy(
        update={"grey_as": source.grey_as or "replicate", "bands_as": source.bands_as or "groups"}
    )
    assert source.size is not None, "_input fills the size"
    height, width = (side * task.scale for side in source.size)
    sampling = _sampling(spec.sampling, info, spec.task)
    return spec.model_copy(
        update={
            "input": source,
            "denoiser": absolute_ref(spec.denoiser),
            "guidance": resolve_guidance(spec.guidance, info),
            "sampling": sampling,
            "tiling": _tiling(spec.tiling, task, info, height, width, local=sampling.intent != "paper"),
        }
    )


def _input(given: InputSpec, task: TaskSpec, channels: int) -> InputSpec:
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
        return given.model_copy(update={"bands": given.bands or channels, "dtype": given.dtype or "uint8"})
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
    size = (info.height, info.width)
    if given.crop is not None:
        size = (given.crop[2] - given.crop[0], given.crop[3] - given.crop[1])
    facts = {"size": size, "bands": info.channels, "dtype": info.dtype}
    return given.model_copy(update={"path": str(path), "mask": None if mask is None else str(mask), **facts})


def _sampling(given: SamplingSpec, info: DenoiserInfo, task: TaskSpec) -> SamplingSpec:
    intent = given.intent or ("faithful" if info.local else "paper")
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
    margin = given.margin
    if margin is None:
        margin = fitting_margin(task, tile, stride, levels) if local else 0
    order = given.order or "raster"
    return given.model_copy(update={"tile": tile, "stride": stride, "margin": margin, "levels": levels, "order": order})
