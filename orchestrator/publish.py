"""From level 0's cells to the published image: crop the padding, round and clip once, stream into OME-Zarr."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.domain import read_domain
from orchestrator.level_cells import LevelCells
from orchestrator.plan import Plan
from orchestrator.rundir import RunDir
from storage.box import Box
from storage.image import ImageInfo
from storage.open import inspect
from storage.publish import publish


def publish_run(run: RunDir, plan: Plan) -> None:
    """Write the restored image under the run's root; its metadata comes last."""
    cells = LevelCells.open(run, plan.levels[0])

    def source(box: Box) -> NDArray[np.unsignedinteger]:
        return plan.values.from_unit(plan.bands.published(cells.read(box)))

    original, known = _original(run, plan), read_domain(run)
    size, icc = (original.pixel_size, original.icc) if original else (None, None)
    publish(
        source,
        run.root,
        height=plan.height,
        width=plan.width,
        channels=plan.out_channels,
        dtype=plan.dtype,
        pixel_size=None if size is None else (size[0] / plan.task.scale, size[1] / plan.task.scale),
        icc=icc if plan.out_channels == plan.spec.input.bands else None,
        name=run.root.stem,
        attributes={"gigarestore": {**provenance(plan), "domain": None if known is None else known.as_dict()}},
    )


def _original(run: RunDir, plan: Plan) -> ImageInfo | None:
    """Return what is known of the input: its pixel size and colour profile go along."""
    if plan.spec.input.path is None or plan.task.name == "cs":
        return None
    return inspect(run.staged_input if run.staged_input.exists() else plan.spec.input.path)


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
        "source": spec.input.model_dump(mode="json"),
        "generated_content": (
            "Restored by a diffusion model: detail that the measurement does not determine is a plausible "
            "completion, not an observation."
        ),
    }
