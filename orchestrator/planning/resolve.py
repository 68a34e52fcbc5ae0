"""Fill every "choose for me" of a job from the input, the denoiser and the presets; nothing is read
but headers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from kernels.denoisers.info import DenoiserInfo, absolute_ref
from kernels.presets import (
    PAPER,
    PREDICTED,
    PREDICTED_SCALES,
    STARTED_STEPS,
    Preset,
)
from kernels.sampling.method_registry import MethodInfo, describe_method
from orchestrator.errors import PlanError
from orchestrator.job.class_guidance import check_tile, describe_network, resolve_guidance
from orchestrator.job.inputs import InputFacts
from orchestrator.job.plan import (
    Plan,
    Region,
    check_levels,
    fitting_margin,
    fitting_stride,
    fitting_tile,
    output_size,
)
from orchestrator.job.regions import check_apart, check_stored, grown, region_job
from orchestrator.job.spec import JobSpec, SamplingSpec, TilingSpec
from orchestrator.job.tasks.task import Task
from orchestrator.job.trajectory import build_trajectory
from orchestrator.planning.input_facts import resolve_files
from orchestrator.planning.method_check import check_bands, check_method
from orchestrator.run_folder import RunDir
from orchestrator.tiling.axis import BLOCK
from storage.box import Box
from storage.errors import FormatError


def plan_job(spec: JobSpec, run: RunDir | None = None, read: InputFacts | None = None) -> Plan:
    """Resolve and plan a job; raises PlanError on one line for everything that can be refused
    beforehand.

    run: an earlier start of the job, whose staged inputs are enough. read: what the input's headers
    say, where they were read already.
    """
    try:
        info = describe_network(spec.denoiser, spec.guidance)
        resolved, inputs = resolve(spec, info, run, read)
        plan = Plan.build(resolved, info, inputs)
        check_bands(plan)
        check_method(plan)
        if spec.regions:
            plan = _with_regions(spec, plan)
        check_tile(resolved.guidance, plan.tile)
        for guided in (False, True):
            build_trajectory(resolved.sampling, info, guided=guided, denoising_sigma=None)
    except (FormatError, ValueError) as err:
        raise PlanError(str(err)) from None
    return plan


def load_plan(run: RunDir) -> Plan:
    """Return the plan of a run from its resolved job alone: neither its input nor its pixels are
    looked at.
    """
    spec = JobSpec.load_resolved(run.job)
    try:
        plan = Plan.build(spec, describe_network(spec.denoiser, spec.guidance))
        jobs = [region_job(spec, i) for i in range(len(spec.regions))]
        plans = [Plan.build(job, describe_network(job.denoiser, job.guidance)) for job in jobs]
        found = zip(spec.regions, plans, strict=True)
        return replace(
            plan, regions=tuple(Region(box=Box(*region.box), plan=part) for region, part in found)
        )
    except ValueError as err:
        raise PlanError(str(err)) from None


def keep_regions(changes: JobSpec, run: RunDir) -> JobSpec:
    """Return the changed job of a run that was begun; regions given again stay what they were
    resolved to then.

    Resolved anew they would follow what was chosen for the rest since. Raises PlanError for a
    region outside the image.
    """
    begun = JobSpec.load_resolved(run.job)
    if changes.regions == begun.regions or len(changes.regions) != len(begun.regions):
        return changes
    plan = load_plan(run)
    try:
        given = tuple(
            grown(region, plan).model_copy(
                update={
                    "denoiser": absolute_ref(region.denoiser),
                    "sampling": region.sampling or kept.sampling,
                    "tiling": region.tiling or kept.tiling,
                }
            )
            for region, kept in zip(changes.regions, begun.regions, strict=True)
        )
    except ValueError as err:
        raise PlanError(str(err)) from None
    return (
        changes.model_copy(update={"regions": begun.regions}) if given == begun.regions else changes
    )


def _with_regions(spec: JobSpec, plan: Plan) -> Plan:
    """Plan every region as a job of its own, and keep what was chosen for it in the main job; spec:
    as it was given.
    """
    grown_regions = tuple(grown(region, plan) for region in spec.regions)
    check_apart(grown_regions)
    given = plan.spec.model_copy(update={"regions": grown_regions, "sampling": spec.sampling})
    plans = [plan_job(region_job(given, i), read=plan.inputs) for i in range(len(grown_regions))]
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


def resolve(
    spec: JobSpec, info: DenoiserInfo, run: RunDir | None, read: InputFacts | None
) -> tuple[JobSpec, InputFacts]:
    """Return the job with every field set that changes pixels, and what its files say."""
    spec, inputs = resolve_files(spec, info.channels, read, run)
    source = spec.input.model_copy(
        update={
            "grey_as": spec.input.grey_as or "replicate",
            "bands_as": spec.input.bands_as or "groups",
        }
    )
    spec = spec.model_copy(update={"input": source})
    task = spec.resolved_task()
    sampling = _sampling(spec.sampling, info, task, spec.task.sigma)
    tiling = _tiling(spec.tiling, task, info, *output_size(spec), local=sampling.intent != "paper")
    resolved = spec.model_copy(
        update={
            "denoiser": absolute_ref(spec.denoiser),
            "guidance": resolve_guidance(spec.guidance, info),
            "sampling": sampling,
            "tiling": tiling,
        }
    )
    return resolved, inputs


def _sampling(given: SamplingSpec, info: DenoiserInfo, task: Task, sigma: float) -> SamplingSpec:
    intent = given.intent or _usual_intent(given, info)
    presets = {"paper": PAPER, **task.presets}
    predicted = intent == "faithful" and _predicted(info, task, given, sigma)
    if not predicted:
        given = given.unpredicted()
    defaults = {**_fields(PREDICTED if predicted else presets[intent]), "intent": intent}
    if not info.local:
        defaults["ensemble"] = "1"  # upside down, a network that knows objects knows them no longer
    free = intent == "faithful" and task.enlarges and info.local
    defaults["guide"] = given.guide or ("start" if free else "constraint")
    if free and defaults["guide"] == "start" and not predicted:
        defaults["guided_steps"] = STARTED_STEPS
    if intent != "paper":
        defaults |= task.preset_changes
    if given.quality == "draft":
        defaults |= {
            "steps": max(defaults["steps"] // 4, 1),
            "guided_steps": max(defaults["guided_steps"] // 2, 1),
        }
    if given.start is not None:
        defaults |= {"init": "bicubic", "guided_start": given.start}
    if given.steps is not None:
        defaults["guided_steps"] = given.steps
    method = describe_method(given.method)
    if defaults["form"] not in method.forms:
        defaults["form"] = method.form
    # The smooth inverse is no orthogonal projector, which noisy measurements and the other methods
    # need.
    plain = intent == "paper" or sigma > 0 or given.method != "ddnm"
    defaults["inverse"] = "replicate" if plain else "smooth"
    if given.inverse == "smooth" and (sigma > 0 or given.method != "ddnm"):
        raise PlanError(
            "the smooth inverse serves method ddnm and noise-free measurements only; leave --inverse out"
        )
    sampling = given.model_copy(
        update={k: v for k, v in defaults.items() if getattr(given, k) is None}
    )
    _check_method(method, sampling, task, sigma)
    for start in (sampling.start, sampling.guided_start):
        if start is not None and start >= info.n_timesteps:
            last = info.n_timesteps - 1
            raise PlanError(
                f"--start {start} is beyond the last timestep of {info.name}; choose 1 to {last}"
            )
    return sampling


def _predicted(info: DenoiserInfo, task: Task, given: SamplingSpec, sigma: float) -> bool:
    """Tell whether a network predicts where the task starts: enlargement of exact means, by what it
    was trained for.
    """
    pooled = task.enlarges and task.stencil is None and task.scale in PREDICTED_SCALES
    asked = given.init == "predicted" or (given.init is None and given.start is None)
    return info.predicts and pooled and asked and given.method == "ddnm" and sigma == 0


def _usual_intent(
    given: SamplingSpec, info: DenoiserInfo
) -> Literal["faithful", "detail", "paper"]:
    if given.quality == "paper" or not info.local:
        return "paper"
    return "faithful" if given.method == "ddnm" else "detail"


def _check_method(method: MethodInfo, sampling: SamplingSpec, task: Task, sigma: float) -> None:
    """Raise PlanError where a method cannot do a task, or not in the form that was asked for."""
    if method.takes == "mask" and not (task.masked and not task.scaled):
        raise PlanError(
            f"method {method.name} restores masked pixels only, not task {task.name}; use --task inpaint"
        )
    if method.takes == "spectral" and task.stencil is not None and not task.stencil.separable:
        raise PlanError(
            f"method {method.name} needs singular values, which this kernel hides; use --method ddnm"
        )
    if (
        method.name == "pigdm"
        and sigma > 0
        and task.stencil is not None
        and not task.stencil.separable
    ):
        raise PlanError(
            "method pigdm needs singular values for a noisy measurement; use --method ddnm with this kernel"
        )
    if sampling.form not in method.forms:
        raise PlanError(f"method {method.name} has no form {sampling.form}; leave --form out")


def _fields(preset: Preset) -> dict[str, Any]:
    return {
        "form": preset.form,
        "eta": preset.eta,
        "steps": preset.steps,
        "start": preset.start,
        "guided_start": preset.start,
        "guided_steps": preset.guided_steps or preset.steps,
        "spacing": preset.spacing,
        "init": "bicubic"
        if preset.init == "pinv"
        else preset.init,  # bicubic at scale 1 is the measurement itself
        "noise_scale": preset.noise_scale,
        "ensemble": preset.ensemble,
        "travel": (preset.travel_length, preset.travel_repeat),
    }


def _tiling(
    given: TilingSpec, task: Task, info: DenoiserInfo, height: int, width: int, *, local: bool
) -> TilingSpec:
    """local: the sampling does not invent, so that what lies beyond a window decides how good its
    outer pixels are.
    """
    wanted = given.tile or info.tile
    levels = given.levels or task.deepest(height, width, wanted) + 1
    check_levels(task, levels)
    tile = given.tile or (
        info.tile if info.fixed_tile else fitting_tile(task, wanted, levels, info.multiple)
    )
    # Where the margin gives context, a quarter of overlap loses nothing and saves half of the work
    # (docs/RESULTS.md).
    stride = given.stride or fitting_stride(
        task, tile * 3 // 4 if local else tile // 2, tile, levels
    )
    # All orders give the same quality (docs/RESULTS.md), centre half the depth of the paper's
    # raster.
    order = given.order or ("centre" if local else "raster")
    margin = given.margin
    block = given.block
    joined = order in (
        "bridge",
        "colour",
    )  # by tiles that restore what the margins on both sides of them leave
    if margin is None:
        # Measurements that overlap must be seen by both tiles at a border: the paper's geometry
        # cannot (check_reach).
        margin = (
            fitting_margin(task, tile, stride, levels)
            if local or joined or task.stencil is not None
            else 0
        )
    if block is not None and order != "bridge":
        raise PlanError(f"--order-block is for the order bridge; leave it out with --order {order}")
    if order == "bridge":
        block = block or BLOCK
    filled = {
        "tile": tile,
        "stride": stride,
        "margin": margin,
        "levels": levels,
        "order": order,
        "block": block,
    }
    return given.model_copy(update=filled)
