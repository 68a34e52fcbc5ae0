"""What became of samples without data: none of the valid ones lost, none of the others made up, and
everything filled that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.fields.sections import NAN
from orchestrator.job.plan import Plan
from orchestrator.measurement.consistency import WINDOW, windows
from orchestrator.measurement.input_file import equals, read_measured
from orchestrator.measurement.measurement_reader import input_known, open_input
from orchestrator.measurement.nodata import keeps_nodata, kept_empty
from orchestrator.run_folder import RunDir
from storage.image import Reader

Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidityCounts:
    """Published samples that are not what the input says of them."""

    lost: int
    """Measured in the input, without data in the output."""
    unfilled: int
    """Unknown, asked to be filled, and without data in the output."""
    invented: int
    """Without data in the input, not asked for, and with a value in the output."""

    @property
    def sound(self) -> bool:
        return self.lost == self.unfilled == self.invented == 0


def validity(run: RunDir, plan: Plan, image: Reader) -> ValidityCounts | None:
    """Count over the whole image, by windows; None where the output has no samples without data."""
    spec = plan.spec.input
    has_value = image.info.nodata is not None or plan.dtype == "float32"
    named = spec.nodata is not None and spec.nodata != NAN
    marked = has_value or named or spec.keep_mask is not None
    beneath = plan.task.measured and plan.task.picture and spec.path is not None
    if not (marked and beneath) or plan.rules == FIRST:
        return None
    source = open_input(run, plan)
    known = input_known(run, plan)
    top, _, _, left = spec.pad or (0, 0, 0, 0)
    scale = plan.task.scale
    lost = 0
    unfilled = 0
    invented = 0
    asked_samples = 0
    as_before = 0
    for box in windows(*(spec.size or (0, 0)), side=max(WINDOW // scale, 1)):
        stored, empty = read_measured(plan, source, box)
        nothing = np.zeros(stored.shape, bool)
        kept = kept_empty(run, plan, box, empty) if keeps_nodata(plan) else None
        keeps = nothing if kept is None else nothing | kept
        unknown = nothing if known is None else np.broadcast_to(~known(box, stored), stored.shape)
        asked = unknown & ~keeps
        valid = ~asked & ~(nothing if empty is None else empty)
        if plan.out_channels != spec.bands:
            # Other bands than the input's have no data where none of the input's has.
            keeps = np.asarray(keeps.all(axis=0, keepdims=True))
            valid = np.asarray(valid.any(axis=0, keepdims=True))
            asked = ~keeps & ~valid

        pixels, published = image.read_valid(box.scale(scale).shift(top, left))
        blank = np.zeros(pixels.shape, bool) if published is None else ~published
        if spec.positive:  # samples without a logarithm are none, and stay as they were
            blank |= pixels <= 0
        lost += _count(blank, valid, scale)
        unfilled += _count(blank, asked, scale)
        if named and spec.nodata is not None:
            asked_samples += int(asked.sum()) * scale**2
            as_before += _count(equals(pixels, spec.nodata) & ~blank, asked, scale)
        invented += _count(~blank, keeps, scale)
    # What was filled can have the value that marked it, by chance: most of it cannot.
    if 2 * as_before > asked_samples:
        unfilled += as_before
    return ValidityCounts(lost=lost, unfilled=unfilled, invented=invented)


def _count(marks: Marks, cells: Marks, scale: int) -> int:
    """Count the marked pixels that lie in marked cells of scale x scale pixels."""
    return int((marks & cells.repeat(scale, axis=1).repeat(scale, axis=2)).sum())
