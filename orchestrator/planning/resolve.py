"""Fill every "choose for me" of a job from the input, the denoiser and the presets; nothing is read
but headers.
"""

from __future__ import annotations

from dataclasses import replace

from kernels.denoiser_info import DenoiserInfo, absolute_ref, split_settings
from orchestrator.errors import PlanError
from orchestrator.job.bands import BANDS_AS, GREY_AS
from orchestrator.job.class_guidance import check_tile, describe_network, resolve_guidance
from orchestrator.job.fields.pixel_rules import CURRENT
from orchestrator.job.fields.sections import AUTO
from orchestrator.job.geometry import output_size
from orchestrator.job.inputs import GIVEN, InputFacts
from orchestrator.job.plan import Plan, Region
from orchestrator.job.regions import check_apart, check_stored, grown, region_job
from orchestrator.job.spec import JobSpec
from orchestrator.job.trajectory import build_trajectory
from orchestrator.planning.input_facts import resolve_files
from orchestrator.planning.method_check import check_bands, check_method
from orchestrator.planning.sampling_rules import resolve_sampling
from orchestrator.planning.tiling_defaults import resolve_tiling
from orchestrator.run_folder import RunDir
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
        pairs = zip(spec.regions, plans, strict=True)
        return replace(
            plan, regions=tuple(Region(box=Box(*region.box), plan=part) for region, part in pairs)
        )
    except ValueError as err:
        raise PlanError(str(err)) from None


def keep_range(changes: JobSpec, begun: JobSpec) -> JobSpec:
    """Return the changed job of a run that was begun; a range that was found stays what it was, and
    the samples are not looked at again.
    """
    found = begun.input.values_from not in (None, GIVEN)
    if changes.input.values != AUTO or not found:
        return changes
    kept = {"values": begun.input.values, "values_from": begun.input.values_from}
    source = changes.input.model_copy(update=kept)
    return changes.model_copy(update={"input": source})


def keep_reading(changes: JobSpec, begun: JobSpec) -> JobSpec:
    """Return the changed job of a run that was begun; its network is read as it was found then."""
    wanted = absolute_ref(changes.denoiser)
    if split_settings(wanted)[1] or split_settings(begun.denoiser)[0] != wanted:
        return changes
    return changes.model_copy(update={"denoiser": begun.denoiser})


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
            "grey_as": spec.input.grey_as or GREY_AS[0],
            "bands_as": spec.input.bands_as or BANDS_AS[0],
        }
    )
    spec = spec.model_copy(update={"input": source})
    task = spec.resolved_task()
    sampling = resolve_sampling(spec.sampling, info, task, spec.task.noisy, inputs.scatter)
    sampling = sampling.model_copy(update={"pixel_rules": sampling.pixel_rules or CURRENT})
    paper = sampling.intent == "paper"
    tiling = resolve_tiling(spec.tiling, task, info, output_size(spec), paper=paper)
    resolved = spec.model_copy(
        update={
            "denoiser": absolute_ref(spec.denoiser),
            "guidance": resolve_guidance(spec.guidance, info),
            "sampling": sampling,
            "tiling": tiling,
        }
    )
    return resolved, inputs
