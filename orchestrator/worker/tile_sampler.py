"""TileSampler: take tiles of one run through the network. No files, no threads: known pixels in,
restored pixels out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.denoisers.denoiser import Denoiser, load_denoiser
from kernels.denoisers.predictor import load_predictor, predict
from kernels.denoisers.symmetry import symmetric
from kernels.noise import KeyedNoise, NoiseKey
from kernels.sampling.constraints import Problem
from kernels.sampling.memory_limit import advance_within, out_of_memory, release_memory
from kernels.sampling.method_registry import MethodConfig
from kernels.sampling.sampler import SamplerConfig, SamplerState
from kernels.sampling.sampler import start as start_tiles
from orchestrator.arrays import Array
from orchestrator.errors import TileError
from orchestrator.job.class_guidance import ClassGuide, network_label
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.plan import Level, Plan
from orchestrator.job.trajectory import Trajectory, trajectory
from orchestrator.measurement.nodata import gaps_stay_open
from orchestrator.measurement.tile_input import TileInput
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.eps_power import eps_power, probe_boxes
from orchestrator.worker.tile_problems import TileProblems

StartPicture = Callable[[Level, tuple[int, int, int, int]], Array | None]
"""Returns the picture that a warm start begins with under a window of a level, None without a
measurement (orchestrator.worker.tile_reader).
"""


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


class TileSampler:
    """Restore tiles of one run; holds the network and no pixels between calls."""

    def __init__(
        self,
        plan: Plan,
        start_picture: StartPicture,
        device: torch.device,
        load: Callable[..., Denoiser] = load_denoiser,
    ) -> None:
        """load: stands in for `load_denoiser` where several runs share a network."""
        self.plan = plan
        self.device = device
        label = network_label(plan.spec.denoiser, plan.spec.guidance)
        loaded = load(plan.spec.denoiser, str(device), label)
        self.denoiser = symmetric(loaded, plan.spec.sampling.ensemble or "1")
        predicted = plan.spec.sampling.init == "predicted"
        self.predictor = load_predictor(device) if predicted else None
        self.guide = ClassGuide.load(plan.spec.guidance, str(device))
        self.problems = TileProblems(plan, device)
        self.noise = KeyedNoise(plan.spec.sampling.seed)
        self.trajectories = [trajectory(plan, level) for level in plan.levels]
        self.limit: int | None = None
        """Rows of a batch that fit into memory; None while every batch has."""
        self._start_picture = start_picture
        self._configs: dict[int, SamplerConfig] = {}

    @property
    def fitting(self) -> int | None:
        """Tiles that fit into memory at a time; None while every batch has."""
        return None if self.limit is None else max(self.limit // len(self.plan.bands.groups), 1)

    def restore(self, tiles: dict[TileKey, TileInput]) -> Iterator[tuple[TileKey, Array]]:
        """Yield the pixels of the owned box of tiles of one level, as many at a time as fit.

        Where memory does not suffice there are fewer at a time from then on: the bytes are the
        same, because a tile's result does not depend on its batch. Raises what the device raises
        where one tile does not fit, TileError where the network gives no pixels.
        """
        for alike in self._alike(tiles):
            yield from self._restore(alike, tiles)

    def _alike(self, tiles: dict[TileKey, TileInput]) -> list[list[TileKey]]:
        """Return the tiles in lists whose measurements have one form (gaps_stay_open)."""
        if not gaps_stay_open(self.plan):
            return [list(tiles)]
        gaps = [key for key, tile in tiles.items() if tile.y is not None and np.isnan(tile.y).any()]
        return [gaps, [key for key in tiles if key not in gaps]]

    def _restore(
        self, left: list[TileKey], tiles: dict[TileKey, TileInput]
    ) -> Iterator[tuple[TileKey, Array]]:
        while left:
            first = left[: self.fitting or len(left)]
            results = self._sample({key: tiles[key] for key in first})
            if results is None:
                continue
            left = left[len(first) :]
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
        keys = [TileKey(*key[:3]) for key in state.keys]
        level = self.plan.levels[keys[0].level]
        pictures = self.problems.finish(state.problem, level, keys, state.estimate).cpu()
        pictures = self.problems.with_measured_means(pictures, level, state.problem)
        pictures = self.problems.within_black_and_white(pictures, level, state.problem)
        groups = len(self.plan.bands.groups)
        firsts = range(0, len(keys), groups)
        return {keys[first]: pictures[first : first + groups] for first in firsts}

    def crop(self, key: TileKey, results: Tensor) -> Array:
        """Return the pixels of a tile's owned box; raises TileError where the network gave none."""
        if not bool(torch.isfinite(results).all()):
            raise TileError(key, "the network returned NaN or infinite pixels")
        rows, cols = _owned_slices(self.plan.levels[key.level], key)
        return self.plan.bands.join([picture[:, rows, cols] for picture in results.numpy()])

    def _start(self, level: Level, keys: list[TileKey], tiles: list[TileInput]) -> SamplerState:
        problem = self.problems.build(level, keys, tiles)
        side = self.plan.tile
        return start_tiles(
            problem,
            self.config(level.index),
            self.noise,
            self._noise_keys(keys),
            (self.plan.denoiser.channels, side, side),
            x_init=self._first_picture(level, problem, tiles),
            device=self.device,
            guidance=None if self.guide is None else self.guide.batch(len(keys)),
        )

    def _noise_keys(self, keys: list[TileKey]) -> list[NoiseKey]:
        """Return what the noise of each row depends on; pictures of a tile follow each other."""
        if self.plan.rules == FIRST:
            return [(key.level, key.row, key.col) for key in keys]
        groups = len(self.plan.bands.groups)
        return [(key.level, key.row, key.col, i % groups) for i, key in enumerate(keys)]

    def _first_picture(
        self, level: Level, problem: Problem, tiles: list[TileInput]
    ) -> Tensor | None:
        """Return the pictures that a warm start begins with; None where it begins with noise."""
        route = self.trajectories[level.index]
        if not route.warm:
            return None
        if tiles[0].start is not None:
            start = self.problems.stack([tile.start for tile in tiles])
        elif problem.measurement is not None:  # a measurement that is no picture itself
            start = problem.measurement.operator.pinv(problem.measurement.y)
        else:
            return None
        if not route.predicted:
            return start
        assert self.predictor is not None, "loaded with the sampler"
        return self.problems.with_guides(predict(self.predictor, start), tiles)

    def config(self, level: int) -> SamplerConfig:
        """Return the process of a level's tiles."""
        if level not in self._configs:
            self._configs[level] = self._config(self.plan.levels[level], self.trajectories[level])
        return self._configs[level]

    def _config(self, level: Level, route: Trajectory) -> SamplerConfig:
        sampling = self.plan.spec.sampling
        assert sampling.form is not None, "resolve() fills the sampling"
        assert sampling.eta is not None, "resolve() fills the sampling"
        assert sampling.noise_scale is not None, "resolve() fills the sampling"
        said: dict[str, Any] = {
            "zeta": sampling.zeta,
            "eta_b": sampling.eta_b,
            "ilvr_stop": sampling.ilvr_stop,
        }
        chosen = {name: value for name, value in said.items() if value is not None}
        return SamplerConfig(
            schedule=route.schedule,
            times=route.times,
            method=sampling.method,
            parameters=MethodConfig(**chosen),
            form=sampling.form,
            eta=sampling.eta,
            eps_power=self._eps_power(level) if sampling.eta == "analytic" else None,
            noise_scale=sampling.noise_scale,
            pins=sampling.pins or "replace",
            ddnm_plus=sampling.ddnm_plus or "projector",
            clip=sampling.clip is not False,
        )

    def _eps_power(self, level: Level) -> tuple[float, ...]:
        """Return Analytic-DPM's table of a level, from its measurement under a few tiles."""
        pictures: list[Array] = []
        for box in probe_boxes(level.grid):
            start = self._start_picture(level, box)
            if start is not None:
                pictures += self.plan.bands.split(start)
        schedule = self.trajectories[level.index].schedule
        return eps_power(self.denoiser, schedule, pictures, self.plan.tile, self.device)


def _owned_slices(level: Level, key: TileKey) -> tuple[slice, slice]:
    """Return the rows and columns of the owned box within the tile's window."""
    y0, x0, _, _ = level.grid.box(key)
    top, left, bottom, right = level.grid.owned(key)
    return slice(top - y0, bottom - y0), slice(left - x0, right - x0)
