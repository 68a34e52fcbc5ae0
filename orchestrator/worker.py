"""Worker: read, sample, write for a batch of tiles. The one place where storage meets kernels."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernels.constraints import Known, Measurement, Problem
from kernels.denoiser import load_denoiser
from kernels.noise import KeyedNoise
from kernels.resample import bicubic_upsample, fill_unknown
from kernels.sampler import SamplerConfig, sample
from kernels.tasks import measurement_operator
from orchestrator.errors import TileError
from orchestrator.graph import guide_window
from orchestrator.grid import TileKey
from orchestrator.level_cells import LevelCells
from orchestrator.measured import level_measured
from orchestrator.plan import Level, Plan
from orchestrator.report import Report
from orchestrator.rundir import RunDir
from orchestrator.tasks import FACTOR
from orchestrator.trajectory import Trajectory, trajectory
from orchestrator.windows import Array, pad_to, to_bands, to_channels
from storage.box import Box

# Measurement pixels read around a tile so that the bicubic start (support 2) has no edge of its own.
START_MARGIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _TileInput:
    """One tile's arrays, (C, h, w) float32 in [-1, 1]."""

    y: Array | None
    known_mask: Array
    """(1, P, P) bool: committed by earlier tiles."""
    known: Array
    guide: Array | None
    start: Array | None


class Worker:
    """Restore tiles of one run; holds the network, open stores and no pixels between calls."""

    def __init__(self, root: Path, plan: Plan, device: str | None = None) -> None:
        self.run_dir, self.plan = RunDir(root), plan
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # more workers beat more threads (docs/RESULTS.md), and one thread is repeatable
        self.denoiser = load_denoiser(plan.spec.denoiser, device=str(self.device))
        self.noise = KeyedNoise(plan.spec.sampling.seed)
        self.cells = [LevelCells.open(self.run_dir, level) for level in plan.levels]
        self.measured = [level_measured(self.run_dir, plan, level) for level in plan.levels]
        self.trajectories = [trajectory(plan, level) for level in plan.levels]

    def run(self, keys: list[TileKey]) -> Report:
        """Restore tiles of one level and write their owned boxes; raises TileError naming a tile that went wrong."""
        began = time.perf_counter()
        level = self.plan.levels[keys[0].level]
        tiles = [self._read(level, key) for key in keys]
        results = self._sample(level, keys, tiles)
        for key, result in zip(keys, results, strict=True):
            self._write(level, key, result)
        nfe = self.trajectories[level.index].nfe * len(keys)
        return Report(tuple(keys), time.perf_counter() - began, nfe)

    def _read(self, level: Level, key: TileKey) -> _TileInput:
        y0, x0, y1, x1 = level.grid.box(key)
        known_mask, known = self._read_known(level, key)
        y = wide = coarse = smooth = None
        measured = self.measured[level.index]
        if measured is not None:
            s, m = level.posed.scale, START_MARGIN
            wide = measured.read(y0 // s - m, x0 // s - m, y1 // s + m, x1 // s + m)
            y = wide[:, m:-m, m:-m]
        if level.guided:
            coarse, smooth = self._read_guide(level, key)
        start = self._start(level, wide, smooth) if self.trajectories[level.index].warm else None
        return _TileInput(y=y, known_mask=known_mask, known=known, guide=coarse, start=start)

    def _start(self, level: Level, wide: Array | None, smooth: Array | None) -> Array | None:
        """Return the picture that a warm start begins with: the coarser result enlarged, else the measurement enlarged.

        wide: the measurement with START_MARGIN pixels around; smooth: the coarser level's result at this size.
        Where the level measures every pixel itself, its own (noisy) pixels are the start, and unknown ones are filled.
        """
        if wide is None or (smooth is not None and (level.posed.scale > 1 or self.plan.task.grey)):
            return smooth
        s, m = level.posed.scale, START_MARGIN
        picture = to_channels(wide, self.plan.denoiser.channels)
        if s > 1:
            return bicubic_upsample(fill_unknown(picture), s)[:, m * s : -m * s, m * s : -m * s]
        unknown = np.isnan(picture)
        filled = fill_unknown(picture)[:, m:-m, m:-m] if smooth is None else smooth
        return np.where(unknown[:, m:-m, m:-m], filled, picture[:, m:-m, m:-m])

    def _read_known(self, level: Level, key: TileKey) -> tuple[Array, Array]:
        box, channels = Box(*level.grid.box(key)), self.plan.denoiser.channels
        mask, known = np.zeros((1, *box.shape), dtype=bool), np.zeros((channels, *box.shape), np.float32)
        for strip in _around(Box(*level.grid.settled(key)), Box(*level.grid.owned(key))):
            rows, cols = strip.shift(-box.y0, -box.x0).slices()
            mask[:, rows, cols] = True
            known[:, rows, cols] = to_channels(self.cells[level.index].read(strip), channels)
        return mask, known

    def _read_guide(self, level: Level, key: TileKey) -> tuple[Array, Array]:
        """Return the coarser level's pixels under the tile, and their bicubic enlargement as a start."""
        coarse = self.plan.levels[level.index + 1].grid
        y0, x0, y1, x1 = level.grid.box(key)
        top, bottom = guide_window(y0, y1, FACTOR, coarse.rows.length)
        left, right = guide_window(x0, x1, FACTOR, coarse.cols.length)
        wide = to_channels(self.cells[level.index + 1].read(Box(top, left, bottom, right)), self.plan.denoiser.channels)
        inner = Box(y0 // FACTOR, x0 // FACTOR, y1 // FACTOR, x1 // FACTOR).shift(-top, -left)
        smooth = bicubic_upsample(wide, FACTOR)
        fine = Box(inner.y0 * FACTOR, inner.x0 * FACTOR, inner.y1 * FACTOR, inner.x1 * FACTOR)
        return (
            wide[:, inner.y0 : inner.y1, inner.x0 : inner.x1],
            smooth[:, fine.y0 : fine.y1, fine.x0 : fine.x1],
        )

    def _sample(self, level: Level, keys: list[TileKey], tiles: list[_TileInput]) -> Tensor:
        route = self.trajectories[level.index]
        problem = Problem(
            guide=self._guide([t.guide for t in tiles]),
            measurement=self._measurement(level, [t.y for t in tiles]),
            known=Known(self._stack([t.known_mask for t in tiles]), self._stack([t.known for t in tiles])),
        )
        start = self._stack([t.start for t in tiles]) if route.warm and tiles[0].start is not None else None
        channels, side = self.plan.denoiser.channels, self.plan.tile
        result = sample(
            self.denoiser,
            problem,
            self._config(route),
            self.noise,
            [(key.level, key.row, key.col) for key in keys],
            (channels, side, side),
            x_init=start,
            device=self.device,
        )
        return result.cpu()

    def _guide(self, windows: list[Array | None]) -> Measurement | None:
        if windows[0] is None:
            return None
        operator = measurement_operator(FACTOR, grey=False, known=None, channels=0, smooth=self._smooth)
        return Measurement(operator, self._stack(windows))

    @property
    def _smooth(self) -> bool:
        return self.plan.spec.sampling.inverse == "smooth"

    def _measurement(self, level: Level, windows: list[Array | None]) -> Measurement | None:
        if windows[0] is None:
            return None
        y = self._stack(windows)
        known = ~torch.isnan(y[:, :1])
        operator = measurement_operator(
            level.posed.scale,
            grey=self.plan.task.grey,
            known=known if self.plan.task.masked else None,
            channels=self.plan.denoiser.channels,
            smooth=self._smooth,
        )
        return Measurement(operator, torch.nan_to_num(y), level.sigma_y)

    def _config(self, route: Trajectory) -> SamplerConfig:
        s = self.plan.spec.sampling
        assert s.form is not None and s.eta is not None and s.noise_scale is not None, "resolve() fills the sampling"
        return SamplerConfig(
            schedule=route.schedule, times=route.times, form=s.form, eta=s.eta, noise_scale=s.noise_scale
        )

    def _write(self, level: Level, key: TileKey, result: Tensor) -> None:
        if not bool(torch.isfinite(result).all()):
            raise TileError(key, "the network returned NaN or infinite pixels")
        owned = Box(*level.grid.owned(key))
        inner = owned.shift(-level.grid.rows.start(key.row), -level.grid.cols.start(key.col))
        pixels = result[:, inner.y0 : inner.y1, inner.x0 : inner.x1].numpy()
        self.cells[level.index].write(owned, to_bands(pixels, self.plan.out_channels))

    def _stack(self, arrays: list[Array] | list[Array | None]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(self.device)  # type: ignore[arg-type]


def _around(box: Box, owned: Box) -> list[Box]:
    """Return the strips of `box` outside `owned`: above, below, left, right (empty ones left out)."""
    strips = [
        Box(box.y0, box.x0, owned.y0, box.x1),
        Box(owned.y1, box.x0, box.y1, box.x1),
        Box(owned.y0, box.x0, owned.y1, owned.x0),
        Box(owned.y0, owned.x1, owned.y1, box.x1),
    ]
    return [s for s in strips if s.height > 0 and s.width > 0]
