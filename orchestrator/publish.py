"""From level 0's cells to the published image: crop the padding, round and clip once, stream into OME-Zarr."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.level_cells import LevelCells
from orchestrator.plan import Plan
from orchestrator.rundir import RunDir
from storage.box import Box
from storage.publish import publish


def publish_run(run: RunDir, plan: Plan) -> None:
    """Write the restored image under the run's root; its metadata comes last."""
    cells = LevelCells.open(run, plan.levels[0])

    def source(box: Box) -> NDArray[np.unsignedinteger]:
        return plan.values.from_unit(plan.bands.published(cells.read(box)))

    publish(
        source,
        run.root,
        height=plan.height,
        width=plan.width,
        channels=plan.out_channels,
        dtype=plan.dtype,
        name=run.root.stem,
        attributes={"gigarestore": provenance(plan)},
    )


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
