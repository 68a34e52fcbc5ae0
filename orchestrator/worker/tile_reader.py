"""What is known of a tile before it is restored: its measurement, the pixels around it, the coarser
level.
"""

from __future__ import annotations

import threading
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.interpolation import spline_fill
from kernels.known_nearby import densely_known
from kernels.resample import bicubic_upsample, fill_unknown
from orchestrator.arrays import Array
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.plan import Level, Plan
from orchestrator.job.trajectory import trajectory
from orchestrator.measurement.measurement_reader import fine_known, level_measured
from orchestrator.measurement.nodata import gaps_stay_open, is_empty, keeps_nodata
from orchestrator.measurement.tile_input import TileInput
from orchestrator.measurement.windows import MeasuredWindow, to_channels
from orchestrator.run_folder import RunDir
from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.hierarchy import FACTOR
from orchestrator.tiling.task_graph import guide_window
from orchestrator.worker.level_cells import LevelCells
from orchestrator.worker.region_layer import RegionLayer
from storage.box import Box
from storage.errors import DamagedError

# Measurement pixels read around a tile so that the bicubic start (support 2) has no edge of its
# own.
START_MARGIN = 4
# Tiles around one inside of a hole that are looked at for something known, in turn.
AFAR = (1, 2, 4)

Window = tuple[int, int, int, int]
"""y0, x0, y1, x1 in px of a level."""


class TileReader:
    """Read tiles of one run; holds open stores and no pixels. One thread reads at a time, whoever
    asks.
    """

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self.plan = plan
        self.cells = [LevelCells.open(run, level) for level in plan.levels]
        self.measured = [level_measured(run, plan, level) for level in plan.levels]
        self.regions = RegionLayer.open(run, plan)
        self.fine_known = fine_known(run, plan)
        self.routes = [trajectory(plan, level) for level in plan.levels]
        self._lock = threading.Lock()  # readers of image files keep positions and caches

    def read(self, key: TileKey, *, measured: bool = True) -> TileInput:
        """Return everything known of a tile whose predecessors are committed; measured: its
        measurement too.
        """
        with self._lock:
            return self._read(self.plan.levels[key.level], key, measured)

    def salvage(self, key: TileKey) -> tuple[TileInput, Array | None]:
        """Return a tile and its measurement enlarged; without the measurement where that cannot be
        read.
        """
        level = self.plan.levels[key.level]
        try:
            return self.read(key), self.start(level, level.grid.box(key))
        except DamagedError:
            return self.read(key, measured=False), None

    def start(self, level: Level, box: Window) -> Array | None:
        """Return the picture that a warm start would begin with under a window of a level without a
        coarser one.
        """
        measured = self.measured[level.index]
        if measured is None:
            return None
        with self._lock:
            return self._start(level, self._wide(measured, level, box), None, box)

    def _read(self, level: Level, key: TileKey, with_measured: bool) -> TileInput:
        box = level.grid.box(key)
        known_mask, known = self._read_known(level, Box(*box), key)
        y = None
        wide = None
        fine = None
        empty = False
        measured = self.measured[level.index]
        if measured is not None and with_measured:
            under = [side // level.posed.scale for side in box]
            wide = self._wide(measured, level, box)
            y = _inside(wide, START_MARGIN)
            if level.index == 0 and gaps_stay_open(self.plan):
                y = measured.read(*under)
            empty = keeps_nodata(self.plan) and is_empty(self.plan, measured.read(*under))
        if self.fine_known is not None and level.index == 0 and with_measured:
            fine = self.fine_known.read(*box)
        coarse = None
        smooth = None
        if level.guided:
            coarse, smooth = self._read_guide(level, key)
        start = None
        if self.routes[level.index].warm:
            start = self._start(level, wide, smooth, box)
        return TileInput(
            y=y,
            known_mask=known_mask,
            known=known,
            guide=coarse,
            start=start,
            fine=fine,
            empty=empty,
        )

    def _wide(self, measured: MeasuredWindow, level: Level, box: Window) -> Array:
        """Return the measurement under a window of the level, with START_MARGIN of its pixels
        around.
        """
        y0, x0, y1, x1 = (side // level.posed.scale for side in box)
        wide = measured.read(
            y0 - START_MARGIN,
            x0 - START_MARGIN,
            y1 + START_MARGIN,
            x1 + START_MARGIN,
        )
        if self.plan.task.masked or not np.isnan(wide).any():
            return wide
        # Samples without data: what is near stands in for them. Their pixels are not published, and
        # those beside them are restored as if the picture went on.
        return self._stand_in(measured, wide, (y0, x0, y1, x1))

    def _stand_in(self, measured: MeasuredWindow, wide: Array, box: Window) -> Array:
        """Return a window of the measurement whose unknown samples are filled from what is near.

        wide: the window with START_MARGIN pixels around, `box` without. A band of which nothing is
        known there is filled from the windows of the tiles around, which see it; one without
        anything known there either is the mean of the others, and unknown where these are.
        """
        blank = np.isnan(wide).all(axis=(1, 2))
        filled = fill_unknown(wide)
        if not blank.any():
            return filled
        y0, x0, y1, x1 = box
        tall = y1 - y0
        broad = x1 - x0
        around = measured.read(y0 - tall, x0 - broad, y1 + tall, x1 + broad)
        nowhere = np.isnan(around).all(axis=(1, 2))
        near = fill_unknown(around)[
            :,
            tall - START_MARGIN : 2 * tall + START_MARGIN,
            broad - START_MARGIN : 2 * broad + START_MARGIN,
        ]
        filled[blank] = near[blank]
        if nowhere.all():
            filled[:] = np.nan
        elif nowhere.any():
            filled[nowhere] = filled[~nowhere].mean(axis=0)
        return filled

    def _seen_from_afar(self, level: Level, wide: Array, box: Window) -> Array:
        """Return a measurement whose bands without any known sample are filled from farther away.

        wide: with START_MARGIN pixels around the window `box` of the level. Inside of a large hole
        nothing is known: windows up to 9 tiles wide are looked at, beyond is mid-grey.
        """
        measured = self.measured[level.index]
        blank = np.isnan(wide).all(axis=(1, 2))
        if measured is None or not blank.any():
            return wide
        y0, x0, y1, x1 = (side // level.posed.scale for side in box)
        filled = wide.copy()
        for reach in AFAR:
            tall = reach * (y1 - y0)
            broad = reach * (x1 - x0)
            around = measured.read(y0 - tall, x0 - broad, y1 + tall, x1 + broad)
            seen = blank & ~np.isnan(around).all(axis=(1, 2))
            if seen.any():
                rows = slice(tall - START_MARGIN, tall + y1 - y0 + START_MARGIN)
                cols = slice(broad - START_MARGIN, broad + x1 - x0 + START_MARGIN)
                filled[seen] = fill_unknown(around[seen])[:, rows, cols]
            blank &= ~seen
            if not blank.any():
                break
        return filled

    def _start(
        self, level: Level, wide: Array | None, smooth: Array | None, box: Window
    ) -> Array | None:
        """Return the picture that a warm start begins with: the coarser result enlarged, else the
        measurement enlarged.

        The latter also where a network makes more of it, to which the coarser result is added
        (TileSampler). wide: the measurement with START_MARGIN pixels around; smooth: the coarser
        level's result at this size; box: the window, px of the level. Where the level measures
        every pixel itself, its own (noisy) pixels are the start, and unknown ones are filled.
        """
        if wide is None or not self._measurement_starts(level, coarser=smooth is not None):
            return smooth
        scale = level.posed.scale
        picture = to_channels(wide, self.plan.bands.stored)
        first_rules = self.plan.rules == FIRST
        if smooth is None and not first_rules:
            picture = to_channels(self._seen_from_afar(level, wide, box), self.plan.bands.stored)
        filled = fill_unknown(picture) if first_rules else spline_fill(picture)
        if scale > 1:
            return _inside(bicubic_upsample(filled, scale), START_MARGIN * scale)
        if smooth is None:
            return _inside(filled, START_MARGIN)
        unknown = np.isnan(picture)
        coarse_is_better = unknown if first_rules else unknown & ~densely_known(~unknown)
        return np.where(
            _inside(coarse_is_better, START_MARGIN), smooth, _inside(filled, START_MARGIN)
        )

    def _measurement_starts(self, level: Level, *, coarser: bool) -> bool:
        """Tell whether a warm start begins with the measurement rather than the coarser result.

        coarser: there is such a result.
        """
        if not self.plan.task.picture:
            return False
        coarse_is_better = level.posed.scale > 1 and not self.routes[level.index].predicted
        return not (coarser and (coarse_is_better or self.plan.grey))

    def _read_known(self, level: Level, box: Box, key: TileKey) -> tuple[Array, Array]:
        """Return where a window is pinned, (1, P, P), and the pixels there, (bands, P, P)."""
        mask = np.zeros((1, *box.shape), dtype=bool)
        known = np.zeros((self.plan.bands.stored, *box.shape), np.float32)
        for pinned in level.grid.pinned(key):
            strip = Box(*pinned)
            rows, cols = strip.shift(-box.y0, -box.x0).slices()
            mask[:, rows, cols] = True
            known[:, rows, cols] = self.cells[level.index].read(strip)
        for region in self.regions:
            region.pin(level.index, box, mask, known)
        return mask, known

    def _read_guide(self, level: Level, key: TileKey) -> tuple[Array, Array]:
        """Return the coarser level's pixels under the tile, and their bicubic enlargement as a
        start.
        """
        coarser = self.plan.levels[level.index + 1].grid
        y0, x0, y1, x1 = level.grid.box(key)
        top, bottom = guide_window(y0, y1, FACTOR, coarser.rows.length)
        left, right = guide_window(x0, x1, FACTOR, coarser.cols.length)
        wide = self.cells[level.index + 1].read(Box(top, left, bottom, right))
        under = Box(y0 // FACTOR, x0 // FACTOR, y1 // FACTOR, x1 // FACTOR)
        inner = under.shift(-top, -left)
        rows, cols = inner.slices()
        fine_rows, fine_cols = inner.scale(FACTOR).slices()
        smooth = bicubic_upsample(wide, FACTOR)
        return wide[:, rows, cols], smooth[:, fine_rows, fine_cols]


def _inside(picture: Picture, margin: int) -> Picture:
    """Return (bands, h, w) without so many pixels along each edge."""
    return picture[:, margin:-margin, margin:-margin]


Picture = TypeVar("Picture", Array, NDArray[np.bool_])
