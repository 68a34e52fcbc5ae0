"""From level 0's cells to the published image: crop the padding, round and clip once, write shard
by shard.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.arrays import Array
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.plan import Plan
from orchestrator.job.value_range import LIMITS
from orchestrator.measurement.nodata import carry_nodata, keeps_nodata
from orchestrator.run.domain_check import read_domain
from orchestrator.run_folder import RunDir
from orchestrator.tiling.hierarchy import FACTOR
from orchestrator.tiling.superblocks import SIDE, SuperBlocks
from orchestrator.tiling.tile_records import substituted_keys
from orchestrator.worker.level_cells import LevelCells
from storage.box import Box
from storage.byte_source import redact
from storage.image_metadata import ImageMetadata
from storage.publishing.display_windows import Window, display_windows
from storage.publishing.publish import plan_levels
from storage.publishing.pyramid_writer import Publication
from storage.validity import marked

# Rows that are taken from float32 to the published dtype at a time.
STRIP = 512
# Bands of a picture in colour.
COLOURS = 3
# Threads that compress the chunks of a shard.
THREADS = 2


def publication(run: RunDir, plan: Plan) -> Publication:
    """Return the writer of a run's image."""
    levels = plan_levels((plan.out_channels, plan.height, plan.width), plan.dtype, shard=SIDE)
    masked = plan.spec.input.keep_mask is not None
    return Publication(
        run.root,
        tuple(levels),
        image_metadata(plan).nodata,
        only_finite=plan.rules != FIRST,
        masked=masked,
    )


def super_blocks(plan: Plan) -> SuperBlocks:
    """Return the geometry of a plan's super-blocks: the shards of the published level 0."""
    level = plan_levels((plan.out_channels, plan.height, plan.width), plan.dtype, shard=SIDE)[0]
    return SuperBlocks(
        [lv.grid for lv in plan.levels], FACTOR, (plan.height, plan.width), level.shard
    )


def publish_block(run: RunDir, plan: Plan, row: int, col: int) -> None:
    """Publish one super-block, durably, and the coarser shards that it completes. The same cells
    give the same bytes.

    Memory: the shard, and a strip of it as float32.
    """
    writer = publication(run, plan)
    cells = LevelCells.open(run, plan.levels[0])
    box = writer.levels[0].box(row, col)
    pixels = np.empty((plan.out_channels, *box.shape), plan.dtype)
    valid = marked(None, pixels.shape) if writer.masked else None
    for y0 in range(box.y0, box.y1, STRIP):
        strip = Box(y0, box.x0, min(y0 + STRIP, box.y1), box.x1)
        rows = slice(strip.y0 - box.y0, strip.y1 - box.y0)
        pixels[:, rows], opacity = _finished(run, plan, cells, strip)
        if valid is not None and opacity is not None:
            valid[:, rows] = opacity
    with ThreadPoolExecutor(THREADS) as pool:
        writer.write(row, col, pixels, pool, valid=valid)
        writer.climb(row, col, pool)


def begin(run: RunDir, plan: Plan) -> Publication:
    """Begin the image, or go on with what an earlier attempt has published."""
    writer = publication(run, plan)
    writer.begin(_group(run, plan, writer))
    return writer


def finish(run: RunDir, plan: Plan) -> None:
    """Make the image appear; every super-block is published by now."""
    writer = publication(run, plan)
    with ThreadPoolExecutor(THREADS) as pool:
        writer.complete(pool)
    writer.finish(_group(run, plan, writer, _shown(plan, writer)))


def _shown(plan: Plan, writer: Publication) -> tuple[Window, ...] | None:
    """Return which values of the finished image viewers show as black and white; None for the range
    of the dtype or the job.
    """
    if plan.rules == FIRST or plan.dtype == "uint8":
        return None
    original = plan.inputs.image
    colour = original is None or original.colour
    return display_windows(writer, together=colour and plan.out_channels == COLOURS)


def image_metadata(plan: Plan) -> ImageMetadata:
    """Return what the output's samples mean: what the input's did, on the output's grid."""
    spec = plan.spec.input
    if spec.path is None or plan.task.coefficients:
        return ImageMetadata()
    original = plan.inputs.image
    assert original is not None, "plan_job() reads the input's header"
    same_bands = plan.out_channels == original.channels
    metadata = ImageMetadata(
        names=original.names if same_bands else (),
        nodata=original.nodata if _says_nodata(plan) else None,
        mask=spec.keep_mask or "",
        geo=original.geo,
        pixel_size=original.pixel_size,
        icc=original.icc if same_bands else None,
    )
    y0, x0 = (spec.crop or (0, 0))[:2]
    top, _, _, left = spec.pad or (0, 0, 0, 0)
    return metadata.cropped(y0, x0).scaled(plan.task.scale).cropped(-top, -left)


def _says_nodata(plan: Plan) -> bool:
    """Tell whether the output may still hold the input's nodata value."""
    value_kept = plan.spec.input.keep_nodata is not None or plan.dtype == "float32"
    return keeps_nodata(plan) and value_kept


def _finished(
    run: RunDir, plan: Plan, cells: LevelCells, box: Box
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return the published samples of a box, (C, h, w), and how opaque they are; None: wholly."""
    values = plan.bands.published(cells.read(box))
    pixels = _apart_from_nodata(plan, values, plan.values.from_unit(values))
    return carry_nodata(run, plan, box, pixels)


def _apart_from_nodata(plan: Plan, values: Array, pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the pixels with those moved by one level that rounding or clipping has made nodata.

    values: (C, h, w) in the unit of [-1, 1], of which `pixels` are the rounded ones.
    """
    nodata = plan.spec.input.keep_nodata
    if nodata is None or plan.rules == FIRST or not plan.values.whole:
        return pixels
    equal = pixels == nodata
    if not equal.any():
        return pixels
    least, most = LIMITS[plan.dtype]
    below = values.astype(np.float64) < plan.values.place(nodata)
    down = (below & (nodata > least)) | (nodata >= most)
    moved = np.where(down, nodata - 1, nodata + 1).astype(pixels.dtype)
    return np.where(equal, moved, pixels)


def _group(
    run: RunDir, plan: Plan, writer: Publication, shown: tuple[Window, ...] | None = None
) -> dict[str, object]:
    check = read_domain(run)
    about = {
        **provenance(plan),
        "domain": None if check is None else check.as_dict(),
        "substituted": substituted_tiles(run, plan),
    }
    # The range of unsigned samples is that of their dtype, which viewers know.
    window = None if plan.dtype.startswith("uint") else (plan.values.low, plan.values.high)
    return writer.group(
        name=run.root.stem,
        metadata=image_metadata(plan),
        attributes={"gigarestore": about},
        window=window,
        shown=shown,
    )


def substituted_tiles(run: RunDir, plan: Plan) -> list[dict[str, Any]]:
    """Return the tiles that could not be restored: level, row, column and box y0, x0, y1, x1 in px
    of the output.
    """
    tiles: list[dict[str, Any]] = []
    for key in substituted_keys(run):
        owned = Box(*plan.levels[key.level].grid.owned(key))
        box = owned.scale(FACTOR**key.level).clip(plan.height, plan.width)
        if not box.empty:  # else it lies in the padding
            tiles.append({**key._asdict(), "box": [box.y0, box.x0, box.y1, box.x1]})
    for number, region in enumerate(plan.regions):
        for tile in substituted_tiles(RunDir(run.region(number)), region.plan):
            moved = Box(*tile["box"]).shift(region.box.y0, region.box.x0)
            box_in_image = [moved.y0, moved.x0, moved.y1, moved.x1]
            tiles.append({**tile, "region": number, "box": box_in_image})
    return tiles


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
        "source": {
            **spec.input.model_dump(mode="json"),
            "path": redact(spec.input.path or "") or None,
        },
        "generated_content": (
            "Restored by a diffusion model: detail that the measurement does not determine is a "
            "plausible completion, not an observation."
        ),
    }
