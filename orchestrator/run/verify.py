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

from kernels.metrics import Consistency
from kernels.seams import Edge, SeamMeter, SeamReport, Standing
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
from orchestrator.measurement.measurement_reader import Known, input_known, open_input, read_known
from orchestrator.measurement.validity_check import ValidityCounts, validity
from orchestrator.measurement.value_use import ValuesOfBoth, values_of_both
from orchestrator.planning.resolve import load_plan
from orchestrator.run.publish_image import substituted_tiles
from orchestrator.run.pyramid_check import PyramidCounts, check_pyramid
from orchestrator.run.verdicts import (
    Limit,
    Verdict,
    consistency_check,
    pyramid_checks,
    seam_check,
    validity_checks,
    value_checks,
)
from orchestrator.run_folder import RunDir
from orchestrator.tiling.axis import AxisGrid
from storage.box import Box
from storage.errors import DamagedError
from storage.image import Reader
from storage.publishing.publish import plan_levels
from storage.readers.reader_registry import open_image

# Lines to compare with are looked for so many coded blocks away.
_BLOCKS_AWAY = 2
# A step across an edge of less than this share of the range is not seen.
LEAST_STEP = 1 / 256
# Version of what `verify --json` prints: 2 has `validity` and this number; 3 has `checks`,
# `pyramid` and `values`, and leaves no value out of `consistency` but under the first pixel rules.
VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `gigarestore verify` says; errors in grey levels of the stored dtype."""

    path: str
    pyramid: PyramidCounts
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
    least_step: float
    """Mean step across an edge that is too small to be a seam, stored levels."""
    validity: ValidityCounts | None
    """What became of samples without data; None where the image has no such samples."""
    values: ValuesOfBoth
    substituted: list[dict[str, Any]]
    """Tiles that could not be restored, as the image's metadata says: level, row, col and box in
    px.
    """

    @property
    def complete(self) -> bool:
        """Whether every object of every level is there."""
        return self.pyramid.missing == 0

    @property
    def checks(self) -> tuple[Verdict, ...]:
        """Return what has been checked, in the order in which it is printed."""
        return (
            *pyramid_checks(self.pyramid),
            *self._consistency_checks(),
            *validity_checks(self.validity),
            seam_check(self.seams, self.least_step),
            *value_checks(self.values, noisy=self.noisy),
        )

    @property
    def consistent(self) -> bool:
        """Whether A x = y holds to the rounding of the stored dtype."""
        return all(check.passed for check in self._consistency_checks())

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def _consistency_checks(self) -> tuple[Verdict, ...]:
        if self.consistency is None:
            return ()
        limits = Limit(self.limit, self.beside_limit)
        return (consistency_check(self.consistency, limits, noisy=self.noisy),)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, with the version of this form."""
        checks = [asdict(check) for check in self.checks]
        verdicts = {
            "complete": self.complete,
            "consistent": self.consistent,
            "passed": self.passed,
        }
        return {"version": VERSION, **asdict(self), **verdicts, "checks": checks}


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
    picture = _measured_picture(run, plan)
    known = None if picture is None else input_known(run, plan)
    return Verification(
        path=str(root),
        pyramid=check_pyramid(run, plan, plan_levels(shape, plan.dtype)),
        consistency=measured,
        limit=limit,
        beside_limit=beside_limit(plan.dtype, limit),
        noisy=plan.spec.task.noisy,
        seams=seam_report(plan, partial(_only_valid, image), picture, known),
        least_step=LEAST_STEP * plan.values.levels,
        validity=validity(run, plan, image),
        values=values_of_both(plan, image, picture, known),
        substituted=substituted_tiles(run, plan),
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
    plan: Plan,
    read: Callable[[Box], NDArray[Any]],
    measured: Reader | None = None,
    known: Known | None = None,
) -> SeamReport:
    """Measure the seams of a picture of a plan's output, read by windows, along the edges of its
    tiles.

    measured: the measurement; blocks in which it was coded are no seams, nor is what steps there
    already, but for steps from or to samples that are unknown. known: tells which are known; None:
    all.
    """
    distances = None if measured is None else measured_distances(measured)
    grid = plan.levels[0].grid
    row_edges = list(_edges(grid.rows, plan.height))
    column_edges = list(_edges(grid.cols, plan.width))
    meter = SeamMeter(
        height=plan.height,
        width=plan.width,
        row_edges=row_edges,
        column_edges=column_edges,
        stride=grid.rows.stride,
        period=alignment(plan.task, 0, len(plan.levels) - 1),
        kinds=None if distances is None else _kinds(plan, *distances),
        reach=0 if distances is None else _BLOCKS_AWAY * SIDES[0] * plan.task.scale,
    )
    for y0, x0, y1, x1 in meter.windows(WINDOW):
        meter.update(y0, x0, read(Box(y0, x0, y1, x1)))
    if measured is None:
        return meter.result()
    return meter.result(_edges_of_measurement(plan, measured, known, (row_edges, column_edges)))


def _edges_of_measurement(
    plan: Plan, measured: Reader, known: Known | None, edges: tuple[list[int], list[int]]
) -> dict[Edge, Standing]:
    """Return how far the measurement's own lines under the tiles' edges stand out of the others."""
    top, _, _, left = plan.spec.input.pad or (0, 0, 0, 0)
    scale = plan.task.scale
    info = measured.info
    sides = (info.height, info.width)
    under: list[dict[int, int]] = []
    for places, begin, side in zip(edges, (top, left), sides, strict=True):
        whole = [place for place in places if (place - begin) % scale == 0]
        lines = {(place - begin) // scale: place for place in whole}
        under.append({line: place for line, place in lines.items() if 0 < line < side})
    meter = SeamMeter(
        height=info.height,
        width=info.width,
        row_edges=sorted(under[0]),
        column_edges=sorted(under[1]),
        stride=max(plan.levels[0].grid.rows.stride // scale, 1),
    )
    for y0, x0, y1, x1 in meter.windows(WINDOW):
        box = Box(y0, x0, y1, x1)
        pixels, there = read_known(plan, measured, known, box)
        meter.update(y0, x0, pixels if there.all() else np.where(there, pixels, np.nan))
    standing = meter.standing_out()
    return {(axis, under[axis][line]): found for (axis, line), found in standing.items()}


def _kinds(plan: Plan, rows: Distance, columns: Distance) -> tuple[Distance, Distance]:
    top, _, _, left = plan.spec.input.pad or (0, 0, 0, 0)
    scale = plan.task.scale
    return output_kind(rows, scale, top), output_kind(columns, scale, left)


def _edges(axis: AxisGrid, length: int) -> Iterator[int]:
    """Yield the boundaries between owned boxes that lie inside the valid image, ascending."""
    return (
        edge for edge in sorted(axis.owned(i)[0] for i in range(axis.count)) if 0 < edge < length
    )
