"""Regions restored first, by a model of their own, and pinned into the rest by mask-shift (the
paper's section 6).

A region is a run of its own on the part of the measurement under it, in `.gigarestore/regions/N`.
Its full-size cells are then known pixels of the main run: at level 0 as they are, at level k
pooled, where every covered pixel is known. Every tile of the main run restores around them, so that
no border is seen, and leaves them bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernels.denoiser_info import PREDICTOR_WEIGHTS, file_hash
from orchestrator.errors import PlanError
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.geometry import lattice
from orchestrator.job.plan import Plan, Region
from orchestrator.job.spec import GuidanceSpec, JobSpec, RegionSpec, SamplingSpec, TilingSpec
from orchestrator.tiling.hierarchy import FACTOR
from storage.box import Box


def grown(region: RegionSpec, plan: Plan) -> RegionSpec:
    """Return the region with its edges moved outward to where no cell of operator or hierarchy is
    cut.

    Raises PlanError for a region that is not inside the image.
    """
    image = Box(0, 0, plan.height, plan.width)
    box = Box(*region.box)
    if box.empty or not image.contains(box):
        raise PlanError(
            f"region {','.join(map(str, region.box))} is not inside the output of "
            f"{plan.height}x{plan.width} px; "
            "give Y0,X0,Y1,X1 in output pixels, the last two exclusive"
        )
    unit = lattice(plan.task, len(plan.levels))
    y0 = box.y0 // unit * unit
    x0 = box.x0 // unit * unit
    y1 = -(-box.y1 // unit) * unit
    x1 = -(-box.x1 // unit) * unit
    return region.model_copy(update={"box": (y0, x0, min(y1, plan.height), min(x1, plan.width))})


def check_apart(regions: Sequence[RegionSpec]) -> None:
    """Raise PlanError naming two regions that overlap."""
    boxes = [Box(*region.box) for region in regions]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            if not one.intersect(other).empty:
                raise PlanError(
                    f"regions {other} and {one} overlap once they lie on the tiles' lattice; "
                    "move them apart"
                )


def region_job(spec: JobSpec, number: int) -> JobSpec:
    """Return the job of a region: the measurement under it, with the region's own denoiser, class,
    sampling and tiles.

    Its working arrays are kept, because the main run reads them.
    """
    region = spec.regions[number]
    scale = spec.task.scale
    if not spec.kind.takes_regions(spec.task, spec.input):
        raise PlanError(
            f"task {spec.task.name} takes no --region here: its input does not lie under its "
            "output pixel by pixel"
        )
    y0, x0, y1, x1 = region.box
    crop = (y0 // scale, x0 // scale, y1 // scale, x1 // scale)
    under: dict[str, Any] = {"size": (crop[2] - crop[0], crop[3] - crop[1])}
    if spec.input.path is not None:
        under["crop"] = crop
    rest = spec.sampling.unpredicted()
    sampling = region.sampling or rest.model_copy(
        update={"seed": (spec.sampling.seed + number + 1) % 2**63}
    )
    return spec.model_copy(
        update={
            "input": spec.input.model_copy(update=under),
            "denoiser": region.denoiser,
            "guidance": _guidance(spec.guidance, region),
            "sampling": sampling,
            "tiling": region.tiling or TilingSpec(),
            "regions": (),
            "run": spec.run.model_copy(update={"keep_work": True}),
        }
    )


def _guidance(rest: GuidanceSpec, region: RegionSpec) -> GuidanceSpec:
    """Return the region's own class; the classifier of the rest guides it too where the region
    names a class.
    """
    if region.label is None or rest.classifier is None:
        return GuidanceSpec(label=region.label)
    return rest.model_copy(update={"label": region.label})


def check_stored(plan: Plan, regions: Sequence[Region]) -> None:
    """Raise PlanError for a region whose pixels do not have the bands that the main run keeps."""
    for region in regions:
        if region.plan.bands.stored != plan.bands.stored:
            raise PlanError(
                f"region {region.box} restores {region.plan.bands.stored} bands with "
                f"{region.plan.denoiser.name}, "
                f"the image has {plan.bands.stored}; choose a denoiser of as many channels"
            )


def region_marks(plan: Plan) -> list[dict[str, Any]] | None:
    """Return what of the regions decides pixels, for the fingerprint; None without regions."""
    marks = [
        {
            "box": list(spec.box),
            "denoiser": region.plan.denoiser.content,
            "sampling": _sampling_marks(region.plan.spec.sampling),
            "tiling": region.plan.spec.tiling.model_dump(mode="json"),
            **(
                {"predictor": file_hash(PREDICTOR_WEIGHTS)}
                if region.plan.spec.sampling.init == "predicted"
                else {}
            ),
        }
        for spec, region in zip(plan.spec.regions, plan.regions, strict=True)
    ]
    return marks or None


def _sampling_marks(sampling: SamplingSpec) -> dict[str, Any]:
    """Return a region's sampling as the fingerprint has it: without what runs under the first rules
    did not name.
    """
    marks = sampling.model_dump(mode="json")
    if sampling.pixel_rules == FIRST:
        for name in ("pixel_rules", "pins", "clip", "ddnm_plus"):
            del marks[name]
    return marks


def covered(box: Box, level: int) -> Box:
    """Return the pixels of a level that lie wholly under a box of the output."""
    g = int(FACTOR**level)
    return Box(-(-box.y0 // g), -(-box.x0 // g), box.y1 // g, box.x1 // g)
