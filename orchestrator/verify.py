"""Check a published image against its measurement: A x = y everywhere, no seams, nothing missing. Streams by windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.metrics import Consistency, ConsistencyMeter, SeamMeter, SeamReport, clipped_cells
from orchestrator.errors import PlanError
from orchestrator.axis import AxisGrid
from orchestrator.plan import Plan, alignment, dtype_range
from orchestrator.resolve import load_plan
from orchestrator.rundir import RunDir
from storage.box import Box
from storage.image import Reader
from storage.open import open_image

# A stored pixel is rounded to the nearest grey level, so an average of them is at most this far from the measurement.
ROUNDING = 0.5
# float64 averages of integers are exact to far below this.
EXACT = 1e-9
# Output pixels along a side of the windows that are read at a time.
WINDOW = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `gigarestore verify` found; errors in grey levels of the stored dtype."""

    path: str
    complete: bool
    consistency: Consistency | None
    """None for generation: there is no measurement."""
    noisy: bool
    """True when the measurement has noise: the residual is then expected, not an error."""
    seams: SeamReport

    @property
    def consistent(self) -> bool:
        """Whether A x = y holds to the rounding of the stored dtype (cells with a clipped pixel apart)."""
        return self.consistency is None or self.noisy or self.consistency.max <= ROUNDING + EXACT

    @property
    def passed(self) -> bool:
        return self.complete and self.consistent

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "consistent": self.consistent, "passed": self.passed}


def verify_run(root: Path) -> Verification:
    """Verify the published image of the run at `root`; raises PlanError where there is none."""
    run = RunDir.existing(root)
    if not run.published:
        raise PlanError(f"{root} is not finished; `gigarestore resume {root}` finishes it")
    plan = load_plan(run)
    image = open_image(run.root)
    complete = image.info.shape == (plan.out_channels, plan.height, plan.width)
    return Verification(
        path=str(root),
        complete=complete,
        consistency=_consistency(run, plan, image) if plan.task.measured else None,
        noisy=plan.spec.task.sigma > 0,
        seams=_seams(plan, image),
    )


def _consistency(run: RunDir, plan: Plan, image: Reader) -> Consistency:
    spec, task = plan.spec.input, plan.task
    source = open_image(run.staged_input if run.staged_input.exists() else Path(spec.path or ""))
    mask = None
    if spec.mask is not None:
        mask = open_image(run.staged_mask if run.staged_mask.exists() else Path(spec.mask))
    meter, limits = ConsistencyMeter(), (0.0, dtype_range(plan.dtype))
    for box in _windows(*(spec.size or (0, 0)), side=max(WINDOW // task.scale, 1)):
        pixels = image.read(box.scale(task.scale))
        y = source.read(box).astype(np.float64)
        if task.grey:
            y = y.mean(axis=0, keepdims=True)
        known = None if mask is None else mask.read(box)[:1] != 0
        clipped = clipped_cells(pixels, task.scale, limits, across_channels=task.grey)
        meter.update(_measure(pixels, task.scale, task.grey), y, clipped, known)
    return meter.result()


def _windows(height: int, width: int, side: int) -> Iterator[Box]:
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield Box(y, x, min(y + side, height), min(x + side, width))


def _measure(pixels: NDArray[Any], scale: int, grey: bool) -> NDArray[np.float64]:
    """Return A x of stored pixels, in grey levels."""
    channels, height, width = pixels.shape
    cells = pixels.astype(np.float64).reshape(channels, height // scale, scale, width // scale, scale)
    pooled: NDArray[np.float64] = cells.mean(axis=(2, 4))
    return pooled.mean(axis=0, keepdims=True) if grey else pooled


def _seams(plan: Plan, image: Reader) -> SeamReport:
    grid = plan.levels[0].grid
    meter = SeamMeter(
        height=plan.height,
        width=plan.width,
        row_edges=list(_edges(grid.rows, plan.height)),
        column_edges=list(_edges(grid.cols, plan.width)),
        stride=grid.rows.stride,
        period=alignment(plan.task, 0, len(plan.levels) - 1),
    )
    for y0, x0, y1, x1 in meter.windows(WINDOW):
        meter.update(y0, x0, image.read(Box(y0, x0, y1, x1)))
    return meter.result()


def _edges(axis: AxisGrid, length: int) -> Iterator[int]:
    """Yield the boundaries between owned boxes that lie inside the valid image, ascending."""
    return (edge for edge in sorted(axis.owned(i)[0] for i in range(axis.count)) if 0 < edge < length)
