"""Worker: read, sample, write for a batch of tiles. The one place where storage meets kernels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.constraints import Known, Measurement, Problem, to
from kernels.denoiser import load_denoiser
from kernels.method_catalog import MethodConfig
from kernels.noise import KeyedNoise
from kernels.operators import OUTER, OWNED, PINNED
from kernels.resample import bicubic_upsample, fill_unknown
from kernels.sampler import SamplerConfig, sample
from kernels.tasks import measurement_operator
from orchestrator.axis import AxisGrid
from orchestrator.eps_power import eps_power, probe_boxes
from orchestrator.errors import TileError
from orchestrator.graph import guide_window
from orchestrator.grid import TileKey
from orchestrator.guiding import ClassGuide, network_label
from orchestrator.level_cells import LevelCells
from orchestrator.measured import fine_known, level_measured
from orchestrator.plan import Level, Plan
from orchestrator.regions import RegionLayer
from orchestrator.report import Report
from orchestrator.rundir import RunDir
from orchestrator.tasks import FACTOR
from orchestrator.tile_input import TileInput, determined
from orchestrator.tile_operator import tile_measurement
from orchestrator.trajectory import Trajectory, trajectory
from orchestrator.windows import Array, Measured, to_channels
from storage.box import Box

# Measurement pixels read around a tile so that the bicubic start (support 2) has no edge of its own.
START_MARGIN = 4


class Worker:
    """Restore tiles of one run; holds the network, open stores and no pixels between calls."""

    def __init__(self, root: Path, plan: Plan, device: str | None = None) -> None:
        self.run_dir, self.plan = RunDir(root), plan
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # more workers beat more threads (docs/RESULTS.md), and one thread is repeatable
        label = network_label(plan.spec.denoiser, plan.spec.guidance)
        self.denoiser = load_denoiser(plan.spec.denoiser, str(self.device), label)
        self.guide = ClassGuide.load(plan.spec.guidance, str(self.device))
        self.noise = KeyedNoise(plan.spec.sampling.seed)
        self.cells = [LevelCells.open(self.run_dir, level) for level in plan.levels]
        self.measured = [level_measured(self.run_dir, plan, level) for level in plan.levels]
        self.regions = RegionLayer.open(self.run_dir, plan)
        self.fine_known = fine_known(self.run_dir, plan)
        self.trajectories = [trajectory(plan, level) for level in plan.levels]
        self._powers: dict[int, tuple[float, ...]] = {}

    def run(self, keys: list[TileKey]) -> Report:
        """Restore tiles of one level and write their owned boxes; raises TileError naming a tile that went wrong."""
        began = time.perf_counter()
        level = self.plan.levels[keys[0].level]
        tiles = {key: self._read(level, key) for key in keys}
        for key in keys:
            pixels = determined(self.plan, level, tiles[key], self._inner(level, key))
            if pixels is not None:
                self.cells[level.index].write(Box(*level.grid.owned(key)), pixels)
                del tiles[key]
        if tiles:
            self._restore(level, tiles)
        nfe = self.trajectories[level.index].nfe * len(tiles) * len(self.plan.bands.groups)
        return Report(tuple(keys), time.perf_counter() - began, nfe, len(keys) - len(tiles))

    def _restore(self, level: Level, tiles: dict[TileKey, TileInput]) -> None:
        """Run the network on tiles, every picture of a tile a row of the batch, and write their owned boxes."""
        bands = self.plan.bands
        pictures = [part for tile in tiles.values() for part in tile.split(bands, self.plan.joint)]
        keys = [key for key in tiles for _ in bands.groups]
        results = self._sample(level, keys, pictures)
        for i, key in enumerate(tiles):
            self._write(level, key, results[i * len(bands.groups) : (i + 1) * len(bands.groups)])

    def _read(self, level: Level, key: TileKey) -> TileInput:
        y0, x0, y1, x1 = level.grid.box(key)
        known_mask, known = self._read_known(level, key)
        y = wide = coarse = smooth = fine = None
        measured = self.measured[level.index]
        if measured is not None:
            wide = self._wide(measured, level, y0, x0, y1, x1)
            y = wide[:, START_MARGIN:-START_MARGIN, START_MARGIN:-START_MARGIN]
        if level.guided:
            coarse, smooth = self._read_guide(level, key)
        if self.fine_known is not None and level.index == 0:
            fine = self.fine_known.read(y0, x0, y1, x1)
        start = self._start(level, wide, smooth) if self.trajectories[level.index].warm else None
        return TileInput(y=y, known_mask=known_mask, known=known, guide=coarse, start=start, fine=fine)

    def _wide(self, measured: Measured, level: Level, y0: int, x0: int, y1: int, x1: int) -> Array:
        """Return the measurement under a window of the level, with START_MARGIN of its pixels around."""
        s, m = level.posed.scale, START_MARGIN
        return measured.read(y0 // s - m, x0 // s - m, y1 // s + m, x1 // s + m)

    def _start(self, level: Level, wide: Array | None, smooth: Array | None) -> Array | None:
        """Return the picture that a warm start begins with: the coarser result enlarged, else the measurement enlarged.

        wide: the measurement with START_MARGIN pixels around; smooth: the coarser level's result at this size.
        Where the level measures every pixel itself, its own (noisy) pixels are the start, and unknown ones are filled.
        """
        unlike = self.plan.task.name in ("cs", "operator")
        if wide is None or unlike or (smooth is not None and (level.posed.scale > 1 or self.plan.grey)):
            return smooth
        s, m = level.posed.scale, START_MARGIN
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
        for strip in _around(Box(*level.grid.settled(key)), Box(*level.grid.owned(key))):
            rows, cols = strip.shift(-box.y0, -box.x0).slices()
            mask[:, rows, cols] = True
            known[:, rows, cols] = self.cells[level.index].read(strip)
        for region in self.regions:
            region.pin(level.index, box, mask, known)
        return mask, known

    def _read_guide(self, level: Level, key: TileKey) -> tuple[Array, Array]:
        """Return the coarser level's pixels under the tile, and their bicubic enlargement as a start."""
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

    def _sample(self, level: Level, keys: list[TileKey], tiles: list[TileInput]) -> Tensor:
        route = self.trajectories[level.index]
        problem = Problem(
            guide=self._guide(level, tiles),
            measurement=self._measurement(level, keys, tiles),
            known=Known(self._stack([t.known_mask for t in tiles]), self._stack([t.known for t in tiles])),
        )
        start = self._stack([t.start for t in tiles]) if route.warm and tiles[0].start is not None else None
        if route.warm and start is None and problem.measurement is not None:  # no picture itself
            start = problem.measurement.operator.pinv(problem.measurement.y)
        channels, side = self.plan.denoiser.channels, self.plan.tile
        result = sample(
            self.denoiser,
            problem,
            self._config(level, route),
            self.noise,
            [(key.level, key.row, key.col) for key in keys],
            (channels, side, side),
            x_init=start,
            device=self.device,
            **({} if self.guide is None else {"guidance": self.guide.batch(len(keys))}),
        )
        return self._finished(problem, level, keys, result).cpu()

    def _finished(self, problem: Problem, level: Level, keys: list[TileKey], result: Tensor) -> Tensor:
        """Restore A x = y beside the pinned pixels, where measurements overlap."""
        if level.index > 0 or self.plan.task.stencil is None:
            return result
        kinds = [[_kinds(axis, i) for i in places] for axis, places in _axes(level, keys)]
        rows, cols = (torch.tensor(axis, dtype=torch.uint8, device=result.device) for axis in kinds)
        return problem.to(result.device).finish(result, rows, cols)

    def _guide(self, level: Level, tiles: list[TileInput]) -> Measurement | None:
        """Return the coarser result as a constraint, except where this level's own measurement has a pixel.

        There the coarse pixel, which was restored from less, could only disagree with it.
        """
        if tiles[0].guide is None:
            return None
        unknown = None
        if self.plan.task.masked and level.posed.scale == 1 and not self.plan.grey:
            unknown = self._stack([_unknown_blocks(t.y) for t in tiles if t.y is not None])
        operator = measurement_operator(FACTOR, grey=False, known=unknown, channels=0, smooth=self._smooth)
        return Measurement(operator, self._stack([t.guide for t in tiles]))

    @property
    def _smooth(self) -> bool:
        return self.plan.spec.sampling.inverse == "smooth"

    def _measurement(self, level: Level, keys: list[TileKey], tiles: list[TileInput]) -> Measurement | None:
        if tiles[0].y is None:
            return None
        fine = None if tiles[0].fine is None else self._stack([t.fine for t in tiles]) > 0
        boxes = [level.grid.box(key) for key in keys]
        return to(tile_measurement(self.plan, level, self._stack([t.y for t in tiles]), boxes, fine), self.device)

    def _config(self, level: Level, route: Trajectory) -> SamplerConfig:
        s = self.plan.spec.sampling
        assert s.form is not None and s.eta is not None and s.noise_scale is not None, "resolve() fills the sampling"
        chosen: dict[str, Any] = {"zeta": s.zeta, "eta_b": s.eta_b, "ilvr_stop": s.ilvr_stop}
        return SamplerConfig(
            schedule=route.schedule,
            times=route.times,
            method=s.method,
            parameters=MethodConfig(**{name: value for name, value in chosen.items() if value is not None}),
            form=s.form,
            eta=s.eta,
            eps_power=self._eps_power(level) if s.eta == "analytic" else None,
            noise_scale=s.noise_scale,
        )

    def _eps_power(self, level: Level) -> tuple[float, ...]:
        """Return Analytic-DPM's table of a level, from its enlarged measurement under a few tiles."""
        if level.index not in self._powers:
            pictures: list[Array] = []
            if (measured := self.measured[level.index]) is not None:
                starts = [
                    self._start(level, self._wide(measured, level, *box), None) for box in probe_boxes(level.grid)
                ]
                pictures = [part for start in starts if start is not None for part in self.plan.bands.split(start)]
            schedule = self.trajectories[level.index].schedule
            power = eps_power(self.denoiser, schedule, pictures, self.plan.tile, self.device)
            self._powers[level.index] = power
        return self._powers[level.index]

    def _inner(self, level: Level, key: TileKey) -> Box:
        """Return the owned box within the tile."""
        y0, x0, _, _ = level.grid.box(key)
        return Box(*level.grid.owned(key)).shift(-y0, -x0)

    def _write(self, level: Level, key: TileKey, results: Tensor) -> None:
        """Write a tile's owned box; results: (groups, C, P, P)."""
        if not bool(torch.isfinite(results).all()):
            raise TileError(key, "the network returned NaN or infinite pixels")
        rows, cols = self._inner(level, key).slices()
        pictures = [picture[:, rows, cols] for picture in results.numpy()]
        self.cells[level.index].write(Box(*level.grid.owned(key)), self.plan.bands.join(pictures))

    def _stack(self, arrays: Sequence[Array | NDArray[np.bool_] | None]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(self.device)  # type: ignore[arg-type]


def _axes(level: Level, keys: list[TileKey]) -> list[tuple[AxisGrid, list[int]]]:
    return [(level.grid.rows, [key.row for key in keys]), (level.grid.cols, [key.col for key in keys])]


def _kinds(axis: AxisGrid, i: int) -> list[int]:
    """Return what each row (column) of tile i's window is: PINNED, OWNED or OUTER."""
    (lo, hi), (own_lo, own_hi), start = axis.settled(i), axis.owned(i), axis.start(i)
    places = range(start, start + axis.tile)
    return [OWNED if own_lo <= p < own_hi else PINNED if lo <= p < hi else OUTER for p in places]


def _unknown_blocks(y: Array) -> NDArray[np.bool_]:
    """Return which blocks of FACTOR x FACTOR pixels of (C, h, w) hold no known one, (1, h / FACTOR, w / FACTOR)."""
    height, width = (side // FACTOR for side in y.shape[1:])
    blocks: NDArray[np.bool_] = np.isnan(y[:1]).reshape(1, height, FACTOR, width, FACTOR)
    return np.asarray(blocks.all(axis=(2, 4)))


def _around(box: Box, owned: Box) -> list[Box]:
    """Return the strips of `box` outside `owned`: above, below, left, right (empty ones left out)."""
    strips = [
        Box(box.y0, box.x0, owned.y0, box.x1),
        Box(owned.y1, box.x0, box.y1, box.x1),
        Box(owned.y0, box.x0, owned.y1, owned.x0),
        Box(owned.y0, owned.x1, owned.y1, box.x1),
    ]
    return [s for s in strips if s.height > 0 and s.width > 0]
