"""What is known of a tile before it is restored: its measurement, the pixels around it, the coarser
level.
"""

from __future__ import annotations

import threading

import numpy as np

from kernels.resample import bicubic_upsample, fill_unknown
from orchestrator.arrays import Array
from orchestrator.job.plan import Level, Plan
from orchestrator.job.trajectory import trajectory
from orchestrator.measurement.measurement_reader import fine_known, level_measured
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

    def start(self, level: Level, box: tuple[int, int, int, int]) -> Array | None:
        """Return the picture that a warm start would begin with under a window of a level without a
        coarser one.
        """
        measured = self.measured[level.index]
        if measured is None:
            return None
        with self._lock:
            return self._start(level, self._wide(measured, level, *box), None)

    def _read(self, level: Level, key: TileKey, with_measured: bool) -> TileInput:
        y0, x0, y1, x1 = level.grid.box(key)
        known_mask, known = self._read_known(level, key)
        y = wide = coarse = smooth = fine = None
        measured = self.measured[level.index]
        if measured is not None and with_measured:
            wide = self._wide(measured, level, y0, x0, y1, x1)
            y = wide[:, START_MARGIN:-START_MARGIN, START_MARGIN:-START_MARGIN]
        if level.guided:
            coarse, smooth = self._read_guide(level, key)
        if self.fine_known is not None and level.index == 0 and with_measured:
            fine = self.fine_known.read(y0, x0, y1, x1)
        start = self._start(level, wide, smooth) if self.routes[level.index].warm else None
        return TileInput(
            y=y, known_mask=known_mask, known=known, guide=coarse, start=start, fine=fine
        )

    def _wide(
        self, measured: MeasuredWindow, level: Level, y0: int, x0: int, y1: int, x1: int
    ) -> Array:
        """Return the measurement under a window of the level, with START_MARGIN of its pixels
        around.
        """
        s = level.posed.scale
        m = START_MARGIN
        return measured.read(y0 // s - m, x0 // s - m, y1 // s + m, x1 // s + m)

    def _start(self, level: Level, wide: Array | None, smooth: Array | None) -> Array | None:
        """Return the picture that a warm start begins with: the coarser result enlarged, else the
        measurement enlarged.

        The latter also where a network makes more of it, to which the coarser result is added
        (TileSampler). wide: the measurement with START_MARGIN pixels around; smooth:
        the coarser level's result at this size. Where the level measures every pixel itself, its
        own (noisy) pixels are the start, and unknown ones are filled.
        """
        unlike = not self.plan.task.picture
        coarse = level.posed.scale > 1 and not self.routes[level.index].predicted
        if wide is None or unlike or (smooth is not None and (coarse or self.plan.grey)):
            return smooth
        s = level.posed.scale
        m = START_MARGIN
        picture = to_channels(wide, self.plan.bands.stored)
        if s > 1:
            return bicubic_upsample(fill_unknown(picture), s)[:, m * s : -m * s, m * s : -m * s]
        unknown = np.isnan(picture)
        filled = fill_unknown(picture)[:, m:-m, m:-m] if smooth is None else smooth
        return np.where(unknown[:, m:-m, m:-m], filled, picture[:, m:-m, m:-m])

    def _read_known(self, level: Level, key: TileKey) -> tuple[Array, Array]:
        box = Box(*level.grid.box(key))
        mask = np.zeros((1, *box.shape), dtype=bool)
        known = np.zeros((self.plan.bands.stored, *box.shape), np.float32)
        for strip in (Box(*pinned) for pinned in level.grid.pinned(key)):
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
        coarse = self.plan.levels[level.index + 1].grid
        y0, x0, y1, x1 = level.grid.box(key)
        top, bottom = guide_window(y0, y1, FACTOR, coarse.rows.length)
        left, right = guide_window(x0, x1, FACTOR, coarse.cols.length)
        wide = self.cells[level.index + 1].read(Box(top, left, bottom, right))
        inner = Box(y0 // FACTOR, x0 // FACTOR, y1 // FACTOR, x1 // FACTOR).shift(-top, -left)
        smooth = bicubic_upsample(wide, FACTOR)
        fine = Box(inner.y0 * FACTOR, inner.x0 * FACTOR, inner.y1 * FACTOR, inner.x1 * FACTOR)
        return (
            wide[:, inner.y0 : inner.y1, inner.x0 : inner.x1],
            smooth[:, fine.y0 : fine.y1, fine.x0 : fine.x1],
        )
