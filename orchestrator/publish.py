"""From level 0's cells to the published image: crop the padding, round and clip once, stream into OME-Zarr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.level_cells import LevelCells
from orchestrator.plan import Plan
from orchestrator.rundir import RunDir, substituted_keys
from orchestrator.tasks import FACTOR
from storage.box import Box
from storage.image import ImageInfo
from storage.open import inspect
from storage.publish import publish


def publish_run(run: RunDir, plan: Plan, check: Callable[[], None] = lambda: None) -> None:
    """Write the restored image under the run's root; its metadata comes last.

    check: called before every shard; raises when this attempt must not write any more.
    """
    cells = LevelCells.open(run, plan.levels[0])

    def source(box: Box) -> NDArray[np.unsignedinteger]:
        return plan.values.from_unit(plan.bands.published(cells.read(box)))

    original = _original(run, plan)
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
        attributes={"gigarestore": provenance(plan) | {"substituted": substituted_tiles(run, plan)}},
        progress=lambda *_: check(),
    )


def substituted_tiles(run: RunDir, plan: Plan) -> list[dict[str, Any]]:
    """Return the tiles that could not be restored: level, row, column and box y0, x0, y1, x1 in px of the output."""
    found = []
    for key in substituted_keys(run):
        owned = Box(*plan.levels[key.level].grid.owned(key))
        box = owned.scale(FACTOR**key.level).clip(plan.height, plan.width)
        if not box.empty:  # else it lies in the padding
            found.append({**key._asdict(), "box": [box.y0, box.x0, box.y1, box.x1]})
    for number, region in enumerate(plan.regions):
        for tile in substituted_tiles(RunDir(run.region(number)), region.plan):
            moved = Box(*tile["box"]).shift(region.box.y0, region.box.x0)
            found.append({**tile, "region": number, "box": [moved.y0, moved.x0, moved.y1, moved.x1]})
    return found


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
