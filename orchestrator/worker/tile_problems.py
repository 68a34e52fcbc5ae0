"""TileProblems: what the tiles of a run have to satisfy, as the sampler wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.known_nearby import densely_known
from kernels.operators.bounded_change import Limits
from kernels.operators.box_projection import clip_keeping_means
from kernels.operators.compose import Compose, measurement_operator
from kernels.operators.elementary import MaskedPool
from kernels.operators.linear_operator import Operator
from kernels.sampling.constraints import Known, Measurement, Problem, Reach, to
from kernels.sampling.measured_means import with_measured_means
from orchestrator.arrays import Array
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.plan import Level, Plan
from orchestrator.measurement.tile_input import TileInput
from orchestrator.measurement.tile_operator import tile_measurement
from orchestrator.tiling.axis import AxisGrid
from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.hierarchy import FACTOR


class TileProblems:
    """Make the problems of one run's batches, on one device; a picture of a tile is a row."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self._plan = plan
        self._device = device
        self._smooth = plan.spec.sampling.inverse == "smooth"

    def build(self, level: Level, keys: list[TileKey], tiles: list[TileInput]) -> Problem:
        """Return what the pictures of a batch of one level have to satisfy."""
        known_masks = self.stack([tile.known_mask for tile in tiles])
        known = self.stack([tile.known for tile in tiles])
        return Problem(
            guide=self._guide(level, tiles),
            measurement=self._measurement(level, keys, tiles),
            known=Known(known_masks, known),
            reach=self._reach(level, tiles),
        )

    def finish(self, problem: Problem, level: Level, keys: list[TileKey], result: Tensor) -> Tensor:
        """Restore A x = y beside the pinned pixels and within black and white, where measurements
        overlap.
        """
        if level.index > 0 or self._plan.task.stencil is None:
            return result
        rows = [_unreached(level.grid.rows, key.row) for key in keys]
        columns = [_unreached(level.grid.cols, key.col) for key in keys]
        unreached_rows = torch.tensor(rows, device=result.device)
        unreached_columns = torch.tensor(columns, device=result.device)
        return problem.to(result.device).finish(
            result, unreached_rows, unreached_columns, self._limits(result)
        )

    def _limits(self, pictures: Tensor) -> Limits | None:
        """Return what the stored dtype can hold; None where pixels are clipped by publishing."""
        plan = self._plan
        if plan.rules == FIRST or not plan.values.whole:
            return None
        low, high = self._storable(pictures, plan.spec.input.keep_nodata)
        y_low, y_high = self._storable(pictures, None)
        return Limits(low, high, y_low, y_high, level=2.0 / plan.values.levels)

    def with_measured_means(self, pictures: Tensor, level: Level, problem: Problem) -> Tensor:
        """Return pictures with the local means of their measurement, where those have no bias.

        That is on the scale of --noise, from which a small error of the mean would come back as a
        large one; below the coarsest level the coarser result has put it right already.
        """
        if self._plan.values.noise is None or level.guided or problem.measurement is None:
            return pictures
        return with_measured_means(pictures, to(problem.measurement, torch.device("cpu")))

    def within_black_and_white(self, pictures: Tensor, level: Level, problem: Problem) -> Tensor:
        """Return the nearest pictures that the stored dtype can hold and that measure the same.

        Only at full size and for cells that share no pixel; `finish` is for the others.
        """
        plan = self._plan
        cells = plan.task.pixelwise or not plan.task.measured
        if plan.rules == FIRST or level.index > 0 or not cells or not plan.values.whole:
            return pictures
        mask = None
        if plan.task.fine_mask and problem.measurement is not None:
            mask = self._fine_mask(problem.measurement.operator)
        low, high = self._storable(pictures, plan.spec.input.keep_nodata)
        return clip_keeping_means(
            pictures, level.posed.scale, low, high, joint=plan.grey, mask=mask
        )

    def _storable(
        self, pictures: Tensor, nodata: float | None
    ) -> tuple[float | Tensor, float | Tensor]:
        """Return what the dtype can store at least and at most: numbers, or (B, C, 1, 1) where
        bands have black and white of their own.
        """
        plan = self._plan
        limits = plan.values.storable(nodata)
        if not plan.values.bands:
            return cast(tuple[float, float], limits)
        groups = plan.bands.groups
        tiles = len(pictures) // len(groups)
        each = [np.stack([limit[list(group)] for group in groups]) for limit in limits]  # type: ignore[index]
        low, high = (torch.from_numpy(limit).to(pictures.device) for limit in each)
        return low.repeat(tiles, 1, 1, 1), high.repeat(tiles, 1, 1, 1)

    def _fine_mask(self, operator: Operator) -> Tensor:
        """Return the known pixels of an operator that pools known pixels only."""
        pool = operator.outer if isinstance(operator, Compose) else operator
        assert isinstance(pool, MaskedPool), "a mask of the output's pixels is pooled"
        return pool.mask.cpu()

    def with_guides(self, picture: Tensor, tiles: list[TileInput]) -> Tensor:
        """Return pictures with the low frequencies of the coarser results, where there are some."""
        if tiles[0].guide is None:
            return picture
        pooling = measurement_operator(
            FACTOR, grey=False, known=None, channels=0, smooth=self._smooth
        )
        return pooling.project(picture, self.stack([tile.guide for tile in tiles]))

    def stack(self, arrays: Sequence[Array | NDArray[np.bool_] | None]) -> Tensor:
        """Return arrays of one shape as a batch on the device."""
        batch = np.ascontiguousarray(np.stack(arrays))  # type: ignore[arg-type]
        return torch.from_numpy(batch).to(self._device)

    def _guide(self, level: Level, tiles: list[TileInput]) -> Measurement | None:
        """Return the coarser result as a constraint, except where this level's own measurement has
        enough pixels.

        There the coarse pixel, which was restored from less, could only disagree with it. Under the
        first rules one pixel in a block of the guide was enough, and none around it counted.
        """
        plan = self._plan
        if tiles[0].guide is None or plan.spec.sampling.guide == "start":
            return None
        unknown = None
        if plan.task.masked and level.posed.scale == 1 and not plan.grey:
            marks = [np.isnan(tile.y) for tile in tiles if tile.y is not None]
            if plan.rules != FIRST:
                marks = [gaps & ~densely_known(~gaps) for gaps in marks]
            unknown = self.stack([_marked_blocks(gaps) for gaps in marks])
        operator = measurement_operator(
            FACTOR, grey=False, known=unknown, channels=0, smooth=self._smooth
        )
        return Measurement(operator, self.stack([tile.guide for tile in tiles]))

    def _reach(self, level: Level, tiles: list[TileInput]) -> Reach | None:
        """Return how far estimates may go outside of black and white: as far as exact measurements
        of a range that is not the dtype's do.
        """
        plan = self._plan
        exact = plan.task.picture and level.sigma_y == 0
        if plan.rules == FIRST or plan.values.full or not exact or tiles[0].y is None:
            return None
        return Reach.of(self.stack([tile.y for tile in tiles]))

    def _measurement(
        self, level: Level, keys: list[TileKey], tiles: list[TileInput]
    ) -> Measurement | None:
        if tiles[0].y is None:
            return None
        fine = None
        if tiles[0].fine is not None:
            fine = self.stack([tile.fine for tile in tiles]) > 0
        y = self.stack([tile.y for tile in tiles])
        boxes = [level.grid.box(key) for key in keys]
        return to(tile_measurement(self._plan, level, y, boxes, fine), self._device)


def _unreached(axis: AxisGrid, i: int) -> list[bool]:
    """Return which rows (columns) of tile i's window no earlier tile has committed pixels in."""
    settled_lo, settled_hi = axis.settled(i)
    owned_lo, owned_hi = axis.owned(i)
    window = range(axis.start(i), axis.start(i) + axis.tile)
    return [
        owned_lo <= place < owned_hi or not settled_lo <= place < settled_hi for place in window
    ]


def _marked_blocks(marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which blocks of FACTOR x FACTOR pixels of (C, h, w) are marked in all their pixels,
    (C, h / FACTOR, w / FACTOR).
    """
    height = marks.shape[1] // FACTOR
    width = marks.shape[2] // FACTOR
    blocks = marks.reshape(len(marks), height, FACTOR, width, FACTOR)
    return np.asarray(blocks.all(axis=(2, 4)))
