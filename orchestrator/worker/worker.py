"""Worker: read, sample, write for a batch of tiles. The one place where storage meets kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.denoisers.denoiser import Denoiser, load_denoiser
from kernels.denoisers.predictor import load_predictor, predict
from kernels.denoisers.symmetry import symmetric
from kernels.noise import KeyedNoise
from kernels.operators.compose import measurement_operator
from kernels.sampling.constraints import Known, Measurement, Problem, to
from kernels.sampling.memory_limit import advance_within, out_of_memory, release_memory
from kernels.sampling.method_registry import MethodConfig
from kernels.sampling.sampler import SamplerConfig, SamplerState
from kernels.sampling.sampler import start as start_tiles
from orchestrator.arrays import Array
from orchestrator.errors import TileError
from orchestrator.job.class_guidance import ClassGuide, network_label
from orchestrator.job.plan import Level, Plan
from orchestrator.job.trajectory import Trajectory, trajectory
from orchestrator.measurement.tile_input import TileInput, determined
from orchestrator.measurement.tile_operator import tile_measurement
from orchestrator.retry import patiently
from orchestrator.run_folder import RunDir
from orchestrator.tiling.axis import AxisGrid
from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.hierarchy import FACTOR
from orchestrator.worker.batch_report import Report
from orchestrator.worker.eps_power import eps_power, probe_boxes
from orchestrator.worker.fallback import substitute
from orchestrator.worker.tile_reader import TileReader
from storage.box import Box

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """A batch that has been read."""

    keys: tuple[TileKey, ...]
    tiles: dict[TileKey, TileInput]
    """Those that the network restores."""
    determined: dict[TileKey, Array]
    """Pixels of those that need none."""


def choose_device(name: str | None = None) -> torch.device:
    """Return the device that this process computes on: the one named, else a GPU where there is
    one.
    """
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        torch.set_num_threads(
            1
        )  # more workers beat more threads (docs/RESULTS.md), and one thread is repeatable
    return device


class Worker:
    """Restore tiles of one run; holds the network, open stores and no pixels between calls."""

    def __init__(
        self,
        root: Path,
        plan: Plan,
        device: str | None = None,
        load: Callable[..., Denoiser] = load_denoiser,
    ) -> None:
        """load: stands in for `load_denoiser` where several runs share a network."""
        self.run_dir = RunDir(root)
        self.plan = plan
        self.device = choose_device(device)
        label = network_label(plan.spec.denoiser, plan.spec.guidance)
        loaded = load(plan.spec.denoiser, str(self.device), label)
        self.denoiser = symmetric(loaded, plan.spec.sampling.ensemble or "1")
        predicted = plan.spec.sampling.init == "predicted"
        self.predictor = load_predictor(self.device) if predicted else None
        self.guide = ClassGuide.load(plan.spec.guidance, str(self.device))
        self.noise = KeyedNoise(plan.spec.sampling.seed)
        self.reader = TileReader(self.run_dir, plan)
        self.cells = self.reader.cells
        self.trajectories = [trajectory(plan, level) for level in plan.levels]
        self.threads = torch.get_num_threads()
        self._trouble = ""
        self.fence: Callable[[], None] = lambda: None
        """Asked while the store fails; raises when nothing is to be waited for any more."""
        self.limit: int | None = None
        """Rows of a batch that fit into memory; None while every batch has."""
        self._configs: dict[int, SamplerConfig] = {}

    @property
    def fitting(self) -> int | None:
        """Tiles that fit into memory at a time; None while every batch has."""
        return None if self.limit is None else max(self.limit // len(self.plan.bands.groups), 1)

    def run(self, keys: list[TileKey]) -> Report:
        """Restore tiles of one level and write their owned boxes; raises TileError naming a tile
        that went wrong.
        """
        began = time.perf_counter()
        work = self.load(keys)
        for key, pixels in work.determined.items():
            self.write(key, pixels)
        for key, pixels in self.restore(work.tiles):
            self.write(key, pixels)
        return self.report(work, time.perf_counter() - began)

    def load(self, keys: Sequence[TileKey]) -> Load:
        """Read tiles of one level whose predecessors are committed; several threads may."""
        tiles = {key: self._patiently(lambda key=key: self.reader.read(key)) for key in keys}  # type: ignore[misc]
        found = {key: self._determined(key, tile) for key, tile in tiles.items()}
        known = {key: pixels for key, pixels in found.items() if pixels is not None}
        return Load(
            tuple(keys), {key: tile for key, tile in tiles.items() if key not in known}, known
        )

    def _determined(self, key: TileKey, tile: TileInput) -> Array | None:
        level = self.plan.levels[key.level]
        return determined(self.plan, level, tile, self._inner(level, key))

    def restore(self, tiles: dict[TileKey, TileInput]) -> Iterator[tuple[TileKey, Array]]:
        """Yield the pixels of the owned box of tiles of one level, as many at a time as fit.

        Where memory does not suffice there are fewer at a time from then on: the bytes are the
        same, because a tile's result does not depend on its batch. Raises what the device raises
        where one tile does not fit, TileError where the network gives no pixels.
        """
        left = list(tiles)
        while left:
            share = left[: self.fitting or len(left)]
            results = self._sample({key: tiles[key] for key in share})
            if results is None:
                continue
            left = left[len(share) :]
            for key, pictures in results.items():
                yield key, self.crop(key, pictures)

    def _sample(self, tiles: dict[TileKey, TileInput]) -> dict[TileKey, Tensor] | None:
        """Take tiles of one level through all their steps, in parts where memory does not suffice.

        None where they cannot even be begun together.
        """
        state = self._begin(tiles)
        if state is None:
            return None
        config = self.config(state.keys[0][0])
        rows = len(state.keys)
        while not all(state.finished(config)):
            most = min(self.limit or rows, rows)
            state, fitted = advance_within(self.denoiser, state, config, self.noise, most)
            if fitted < most:
                self.limit = fitted
        return self._results(state)

    def _begin(self, tiles: dict[TileKey, TileInput]) -> SamplerState | None:
        """Return tiles before their first step, every picture of a tile a row of the batch.

        None where several do not fit: from then on half as many are begun at a time.
        """
        bands = self.plan.bands
        keys = [key for key in tiles for _ in bands.groups]
        level = self.plan.levels[keys[0].level]
        pictures = [part for tile in tiles.values() for part in tile.split(bands, self.plan.joint)]
        try:
            return self._start(level, keys, pictures)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as err:
            if len(tiles) == 1 or not out_of_memory(err):
                raise
        self.limit = max(len(keys) // 2, 1)
        release_memory(self.device)
        return None

    def _results(self, state: SamplerState) -> dict[TileKey, Tensor]:
        """Return the pictures (groups, C, P, P) of tiles that have finished, on the CPU."""
        level = self.plan.levels[state.keys[0][0]]
        keys = [TileKey(*key) for key in state.keys]
        pictures = self.finished(state.problem, level, keys, state.estimate).cpu()
        groups = len(self.plan.bands.groups)
        return {
            key: pictures[i * groups : (i + 1) * groups] for i, key in enumerate(keys[::groups])
        }

    def crop(self, key: TileKey, results: Tensor) -> Array:
        """Return the pixels of a tile's owned box; raises TileError where the network gave none."""
        if not bool(torch.isfinite(results).all()):
            raise TileError(key, "the network returned NaN or infinite pixels")
        rows, cols = self._inner(self.plan.levels[key.level], key).slices()
        return self.plan.bands.join([picture[:, rows, cols] for picture in results.numpy()])

    def write(self, key: TileKey, pixels: Array) -> None:
        """Write a tile's owned box; on return it is durable."""
        owned = Box(*self.plan.levels[key.level].grid.owned(key))
        self._patiently(lambda: self.cells[key.level].write(owned, pixels))

    def substitute(self, keys: Sequence[TileKey]) -> Report:
        """Write what stands in for tiles that cannot be restored."""
        began = time.perf_counter()
        for key in keys:
            self.write(key, substitute(self, key))
        trouble = self._trouble
        self._trouble = ""
        return Report(
            tuple(keys), time.perf_counter() - began, 0, substituted=True, trouble=trouble
        )

    def _patiently(self, action: Callable[[], T]) -> T:
        """Do something to the store, again and again while it fails for a while."""
        return patiently(action, self.plan.spec.run.store_seconds, self._note)

    def _note(self, trouble: str) -> None:
        self.fence()
        self._trouble = trouble

    def report(self, work: Load, seconds: float) -> Report:
        """Return what the driver is told of a batch whose tiles are written."""
        groups = len(self.plan.bands.groups)
        nfe = self.trajectories[work.keys[0].level].nfe * len(work.tiles) * groups
        trouble = self._trouble
        self._trouble = ""
        return Report(work.keys, seconds, nfe, len(work.determined), self.fitting, trouble=trouble)

    def _start(self, level: Level, keys: list[TileKey], tiles: list[TileInput]) -> SamplerState:
        route = self.trajectories[level.index]
        problem = self.problem(level, keys, tiles)
        start = (
            self._stack([t.start for t in tiles])
            if route.warm and tiles[0].start is not None
            else None
        )
        if route.warm and start is None and problem.measurement is not None:  # no picture itself
            start = problem.measurement.operator.pinv(problem.measurement.y)
        if start is not None and route.predicted:
            start = self._predict(start, tiles)
        channels = self.plan.denoiser.channels
        side = self.plan.tile
        return start_tiles(
            problem,
            self.config(level.index),
            self.noise,
            [(key.level, key.row, key.col) for key in keys],
            (channels, side, side),
            x_init=start,
            device=self.device,
            guidance=None if self.guide is None else self.guide.batch(len(keys)),
        )

    def _predict(self, start: Tensor, tiles: list[TileInput]) -> Tensor:
        """Return what the enlarged measurement may have been, with the low frequencies of the
        coarser result.
        """
        assert self.predictor is not None, "loaded with the worker"
        picture = predict(self.predictor, start)
        if tiles[0].guide is None:
            return picture
        pooling = measurement_operator(
            FACTOR, grey=False, known=None, channels=0, smooth=self._smooth
        )
        return pooling.project(picture, self._stack([t.guide for t in tiles]))

    def problem(self, level: Level, keys: list[TileKey], tiles: list[TileInput]) -> Problem:
        """Return what the pictures of a batch have to satisfy."""
        return Problem(
            guide=self._guide(level, tiles),
            measurement=self._measurement(level, keys, tiles),
            known=Known(
                self._stack([t.known_mask for t in tiles]), self._stack([t.known for t in tiles])
            ),
        )

    def finished(
        self, problem: Problem, level: Level, keys: list[TileKey], result: Tensor
    ) -> Tensor:
        """Restore A x = y beside the pinned pixels, where measurements overlap."""
        if level.index > 0 or self.plan.task.stencil is None:
            return result
        reached = [[_unreached(axis, i) for i in places] for axis, places in _axes(level, keys)]
        rows, cols = (torch.tensor(axis, device=result.device) for axis in reached)
        return problem.to(result.device).finish(result, rows, cols)

    def _guide(self, level: Level, tiles: list[TileInput]) -> Measurement | None:
        """Return the coarser result as a constraint, except where this level's own measurement has
        a pixel.

        There the coarse pixel, which was restored from less, could only disagree with it.
        """
        if tiles[0].guide is None or self.plan.spec.sampling.guide == "start":
            return None
        unknown = None
        if self.plan.task.masked and level.posed.scale == 1 and not self.plan.grey:
            unknown = self._stack([_unknown_blocks(t.y) for t in tiles if t.y is not None])
        operator = measurement_operator(
            FACTOR, grey=False, known=unknown, channels=0, smooth=self._smooth
        )
        return Measurement(operator, self._stack([t.guide for t in tiles]))

    @property
    def _smooth(self) -> bool:
        return self.plan.spec.sampling.inverse == "smooth"

    def _measurement(
        self, level: Level, keys: list[TileKey], tiles: list[TileInput]
    ) -> Measurement | None:
        if tiles[0].y is None:
            return None
        fine = None if tiles[0].fine is None else self._stack([t.fine for t in tiles]) > 0
        boxes = [level.grid.box(key) for key in keys]
        return to(
            tile_measurement(self.plan, level, self._stack([t.y for t in tiles]), boxes, fine),
            self.device,
        )

    def config(self, level: int) -> SamplerConfig:
        """Return the process of a level's tiles."""
        if level not in self._configs:
            self._configs[level] = self._config(self.plan.levels[level], self.trajectories[level])
        return self._configs[level]

    def _config(self, level: Level, route: Trajectory) -> SamplerConfig:
        s = self.plan.spec.sampling
        assert s.form is not None and s.eta is not None and s.noise_scale is not None, (
            "resolve() fills the sampling"
        )
        chosen: dict[str, Any] = {"zeta": s.zeta, "eta_b": s.eta_b, "ilvr_stop": s.ilvr_stop}
        return SamplerConfig(
            schedule=route.schedule,
            times=route.times,
            method=s.method,
            parameters=MethodConfig(
                **{name: value for name, value in chosen.items() if value is not None}
            ),
            form=s.form,
            eta=s.eta,
            eps_power=self._eps_power(level) if s.eta == "analytic" else None,
            noise_scale=s.noise_scale,
        )

    def _eps_power(self, level: Level) -> tuple[float, ...]:
        """Return Analytic-DPM's table of a level, from its enlarged measurement under a few tiles."""
        starts = [self.reader.start(level, box) for box in probe_boxes(level.grid)]
        pictures = [
            part for start in starts if start is not None for part in self.plan.bands.split(start)
        ]
        schedule = self.trajectories[level.index].schedule
        return eps_power(self.denoiser, schedule, pictures, self.plan.tile, self.device)

    def _inner(self, level: Level, key: TileKey) -> Box:
        """Return the owned box within the tile."""
        y0, x0, _, _ = level.grid.box(key)
        return Box(*level.grid.owned(key)).shift(-y0, -x0)

    def _stack(self, arrays: Sequence[Array | NDArray[np.bool_] | None]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(self.device)  # type: ignore[arg-type]


def _axes(level: Level, keys: list[TileKey]) -> list[tuple[AxisGrid, list[int]]]:
    return [
        (level.grid.rows, [key.row for key in keys]),
        (level.grid.cols, [key.col for key in keys]),
    ]


def _unreached(axis: AxisGrid, i: int) -> list[bool]:
    """Return which rows (columns) of tile i's window no earlier tile has committed pixels in."""
    (lo, hi), (own_lo, own_hi), start = axis.settled(i), axis.owned(i), axis.start(i)
    return [own_lo <= p < own_hi or not lo <= p < hi for p in range(start, start + axis.tile)]


def _unknown_blocks(y: Array) -> NDArray[np.bool_]:
    """Return which blocks of FACTOR x FACTOR pixels of (C, h, w) hold no known one, (1, h / FACTOR,
    w / FACTOR).
    """
    height, width = (side // FACTOR for side in y.shape[1:])
    blocks: NDArray[np.bool_] = np.isnan(y[:1]).reshape(1, height, FACTOR, width, FACTOR)
    return np.asarray(blocks.all(axis=(2, 4)))
