"""From level 0's cells to the published image: crop the padding, round and clip once, stream into OME-Zarr."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from orchestrator.input_file import inspect_file
from orchestrator.level_cells import LevelCells
from orchestrator.nodata import carry_nodata, keeps_nodata
from orchestrator.plan import Plan
from orchestrator.rundir import RunDir
from storage.box import Box
from storage.meaning import Meaning
from storage.open import inspect
from storage.publish import publish
from storage.source import redact


def publish_run(run: RunDir, plan: Plan) -> None:
    """Write the restored image under the run's root; its metadata comes last."""
    cells = LevelCells.open(run, plan.levels[0])

    def source(box: Box) -> NDArray[Any]:
        return carry_nodata(run, plan, box, plan.values.from_unit(plan.bands.published(cells.read(box))))

    publish(
        source,
        run.root,
        height=plan.height,
        width=plan.width,
        channels=plan.out_channels,
        dtype=plan.dtype,
        meaning=meaning(run, plan),
        name=run.root.stem,
        attributes={"gigarestore": provenance(plan)},
    )


def meaning(run: RunDir, plan: Plan) -> Meaning:
    """Return what the output's samples mean: what the input's did, on the output's grid."""
    spec = plan.spec.input
    if spec.path is None or plan.task.name == "cs":
        return Meaning()
    original = inspect(run.staged_input) if run.staged_input.exists() else inspect_file(spec)
    same_bands = plan.out_channels == original.channels
    found = Meaning(
        names=original.names if same_bands else (),
        nodata=original.nodata if keeps_nodata(plan) else None,
        geo=original.geo,
        pixel_size=original.pixel_size,
        icc=original.icc if same_bands else None,
    )
    y0, x0 = (spec.crop or (0, 0))[:2]
    top, _, _, left = spec.pad or (0, 0, 0, 0)
    return found.cropped(y0, x0).scaled(plan.task.scale).cropped(-top, -left)


def provenance(plan: Plan) -> dict[str, object]:
    """Return what the output's metadata says about how it was made."""
    spec = plan.spec
    return {
        "task": spec.task.model_dump(mode="json"),
        "denoiser": {"name": plan.denoiser.name, "content": plan.denoiser.content},
        "sampling": spec.sampling.model_dump(mode="json"),
        "tiling": spec.tiling.model_dump(mode="json"),
        "guidance": spec.guidance.model_dump(mode="json"),
        "bands": plan.bands.describe(),
        "source": {**spec.input.model_dump(mode="json"), "path": redact(spec.input.path or "") or None},
        "generated_content": (
            "Restored by a diffusion model: detail that the measurement does not determine is a plausible "
            "completion, not an observation."
        ),
    }
