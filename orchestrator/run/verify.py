"""Check a published image against its measurement: A x = y everywhere, no seams, nothing missing.
Streams by windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.metrics import Consistency, SeamMeter, SeamReport
from orchestrator.errors import PlanError
from orchestrator.job.geometry import alignment
from orchestrator.job.plan import Plan
from orchestrator.measurement.block_lattice import (
    SIDES,
    Distance,
    measured_distances,
    output_kind,
)
from orchestrator.measurement.consistency import WINDOW, beside_limit, consistency
from orchestrator.measurement.measurement_reader import open_input
from orchestrator.measurement.validity_check import ValidityCounts, validity
from orchestrator.planning.resolve import load_plan
from orchestrator.run.publish_image import substituted_tiles
from orchestrator.run_folder import RunDir
from orchestrator.tiling.axis import AxisGrid
from storage.box import Box
from storage.errors import DamagedError
from storage.image import Reader
from storage.image_metadata import VALIDITY
from storage.publishing.publish import plan_levels
from storage.readers.reader_registry import open_image
from storage.zarr_format.shard import PyramidLevel as StoredLevel
from storage.zarr_format.zarr_json import ZARR_JSON, object_key

# float64 averages of integers are exact to far below this.
EXACT = 1e-9
# Lines to compare with are looked for so many coded blocks away.
_BLOCKS_AWAY = 2
# Version of what `verify --json` prints: 2 has `validity` and this number.
VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `gigarestore verify` says; errors in grey levels of the stored dtype."""

    path: str
    complete: bool
    consistency: Consistency | None
    """None for generation: there is no measurement."""
    limit: float
    """Largest |A x - y| that the rounding of both images explains, grey levels
    (orchestrator.job.fields.tolerance).
    """
    beside_limit: float
    """The same for overlapping measurements that see black or white."""
    noisy: bool
    """True when the measurement has noise: the residual is then expected, not an error."""
    seams: SeamReport
    validity: ValidityCounts | None
    """What became of samples without data; None where the image has no such samples."""
    substituted: list[dict[str, Any]]
    """Tiles that could not be restored, as the image's metadata says: level, row, col and box in
    px.
    """

    @property
    def consistent(self) -> bool:
        """Whether A x = y holds to the rounding of the stored dtype.

        Values with a clipped pixel are counted apart, unless all are such: they must hold then, or
        nothing is shown.
        """
        if self.consistency is None or self.noisy:
            return True
        found = self.consistency
        if self.all_clipped:
            return found.clipped_max <= self.limit + EXACT
        beside = found.beside_max <= self.beside_limit + EXACT
        elsewhere = found.elsewhere_max if found.beside else found.max
        return beside and elsewhere <= self.limit + EXACT

    @property
    def all_clipped(self) -> bool:
        """Whether every measurement value has a pixel at a limit of the dtype under it."""
        return (
            self.consistency is not None
            and self.consistency.cells == 0
            and self.consistency.clipped > 0
        )

    @property
    def passed(self) -> bool:
        valid = self.validity is None or self.validity.sound
        return self.complete and self.consistent and valid

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, with the version of this form."""
        verdicts = {"consistent": self.consistent, "passed": self.passed}
        return {"version": VERSION, **asdict(self), **verdicts}


def verify_run(root: Path) -> Verification:
    """Verify the published image of the run at `root`.

    Raises PlanError where there is none, DamagedError where pixels are lost or are not those of an
    image of this job.
    """
    run = RunDir.existing(root)
    if not run.published:
        raise PlanError(f"{root} is not finished; `gigarestore resume {root}` finishes it")
    plan = load_plan(run)
    image = open_image(run.root)
    shape = (plan.out_channels, plan.height, plan.width)
    if image.info.shape != shape or image.info.dtype != plan.dtype:
        there = f"{image.info.shape} {image.info.dtype}"
        raise DamagedError(
            f"{root}: the image is {there}, its job makes {shape} {plan.dtype}; restore it again"
        )
    measured: Consistency | None = None
    limit = 0.0
    if plan.task.measured:
        measured, limit = consistency(run, plan, image)
    return Verification(
        path=str(root),
        complete=_complete(run, plan_levels(shape, plan.dtype), masked=_masked(plan)),
        consistency=measured,
        limit=limit,
        beside_limit=beside_limit(plan.dtype, limit),
        noisy=plan.spec.task.noisy,
        seams=seam_report(plan, partial(_only_valid, image), _measured_picture(run, plan)),
        validity=validity(run, plan, image),
        substituted=substituted_tiles(run, plan),
    )


def _masked(plan: Plan) -> bool:
    return plan.spec.input.keep_mask is not None


def _complete(run: RunDir, levels: list[StoredLevel], *, masked: bool) -> bool:
    """Tell whether every object of every level of the pyramid is there; what is in them is read at
    level 0 only.

    masked: an image of the same levels says which samples are valid.
    """
    images = [run.root, run.root / VALIDITY] if masked else [run.root]
    numbers = range(len(levels))
    folders = [image / str(number) for image in images for number in numbers]
    levels = levels * len(images)
    objects = (
        f / object_key(*p) for f, level in zip(folders, levels, strict=True) for p in level.places()
    )
    return all((folder / ZARR_JSON).is_file() for folder in folders) and all(
        path.is_file() for path in objects
    )


def _only_valid(image: Reader, box: Box) -> NDArray[Any]:
    """Return a window of an image, NaN where it holds no data: no step there is a seam."""
    pixels, valid = image.read_valid(box)
    if valid is None or valid.all():
        return pixels
    return np.where(valid, pixels, np.nan)


def _measured_picture(run: RunDir, plan: Plan) -> Reader | None:
    """Return the measurement where it is a picture of what was restored; else None."""
    return open_input(run, plan) if plan.task.measured and plan.task.picture else None


def seam_report(
    plan: Plan, read: Callable[[Box], NDArray[Any]], measured: Reader | None = None
) -> SeamReport:
    """Measure the seams of a picture of a plan's output, read by windows, along the edges of its
    tiles.

    measured: the measurement; blocks in which it was coded are no seams.
    """
    distances = None if measured is None else measured_distances(measured)
    grid = plan.levels[0].grid
    meter = SeamMeter(
        height=plan.height,
        width=plan.width,
        row_edges=list(_edges(grid.rows, plan.height)),
        column_edges=list(_edges(grid.cols, plan.width)),
        stride=grid.rows.stride,
        period=alignment(plan.task, 0, len(plan.levels) - 1),
        kinds=None if distances is None else _kinds(plan, *distances),
        reach=0 if distances is None else _BLOCKS_AWAY * SIDES[0] * plan.task.scale,
    )
    for y0, x0, y1, x1 in meter.windows(WINDOW):
        meter.update(y0, x0, read(Box(y0, x0, y1, x1)))
    return meter.result()


def _kinds(plan: Plan, rows: Distance, columns: Distance) -> tuple[Distance, Distance]:
    top, _, _, left = plan.spec.input.pad or (0, 0, 0, 0)
    scale = plan.task.scale
    return output_kind(rows, scale, top), output_kind(columns, scale, left)


def _edges(axis: AxisGrid, length: int) -> Iterator[int]:
    """Yield the boundaries between owned boxes that lie inside the valid image, ascending."""
    return (
        edge for edge in sorted(axis.owned(i)[0] for i in range(axis.count)) if 0 < edge < length
    )
