"""Fill every "choose for me" of a job from the input, the denoiser and the presets; nothing is read but headers."""

from __future__ import annotations

from typing import Any

from kernels.catalog import DenoiserInfo, describe
from kernels.presets import DENOISING, INTENTS, PAPER, Preset
from orchestrator.errors import PlanError
from orchestrator.inputs import resolve_input, resolve_task
from orchestrator.plan import Plan, check_levels, fitting_margin, fitting_stride, fitting_tile, output_size
from orchestrator.rundir import RunDir
from orchestrator.spec import JobSpec, SamplingSpec, TaskSpec, TilingSpec
from orchestrator.tasks import Task
from orchestrator.trajectory import build_trajectory
from storage.errors import FormatError

# Compressed sensing keeps drawing noise: without it nothing wipes out the artefacts of A+ y (17 dB instead of 30).
COEFFICIENTS = {"start": 300, "guided_start": 300, "steps": 30, "noise_scale": 1.0}


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
    optional = {"start", "guided_start"}
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
    spec = spec.model_copy(update={"task": resolve_task(spec, info)})
    spec = spec.model_copy(update={"input": resolve_input(spec.input, spec.task)})
    task = Task.of(spec)
    sampling = _sampling(spec.sampling, info, spec.task)
    tiling = _tiling(spec.tiling, task, info, *output_size(spec), local=sampling.intent != "paper")
    return spec.model_copy(update={"sampling": sampling, "tiling": tiling})


def _sampling(given: SamplingSpec, info: DenoiserInfo, task: TaskSpec) -> SamplingSpec:
    intent = given.intent or ("faithful" if info.name == "builtin" else "paper")
    presets = {"paper": PAPER, **INTENTS, **(DENOISING if task.name == "denoise" else {})}
    defaults = {**_fields(presets[intent]), "intent": intent}
    if task.name == "cs" and intent != "paper":
        defaults |= COEFFICIENTS
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
        # Measurements that overlap must be seen by both tiles at a border: the paper's geometry cannot (check_reach).
        margin = fitting_margin(task, tile, stride, levels) if local or task.stencil is not None else 0
    order = given.order or "raster"
    return given.model_copy(update={"tile": tile, "stride": stride, "margin": margin, "levels": levels, "order": order})
