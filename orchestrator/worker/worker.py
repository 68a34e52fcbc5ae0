"""Worker: read a batch of tiles, have it sampled, write it. The one place where storage meets
kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kernels.denoisers.denoiser import Denoiser, load_denoiser
from orchestrator.arrays import Array
from orchestrator.job.plan import Plan
from orchestrator.measurement.tile_input import TileInput, determined
from orchestrator.retry import retry_store
from orchestrator.run_folder import RunDir
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_report import Report
from orchestrator.worker.fallback import substitute
from orchestrator.worker.tile_reader import TileReader
from orchestrator.worker.tile_sampler import TileSampler, choose_device
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
        self.reader = TileReader(self.run_dir, plan)
        self.cells = self.reader.cells
        self.sampler = TileSampler(plan, self.reader.start, choose_device(device), load)
        self._trouble = ""
        self.fence: Callable[[], None] = lambda: None
        """Asked while the store fails; raises when nothing is to be waited for any more."""

    def run(self, keys: list[TileKey]) -> Report:
        """Restore tiles of one level and write their owned boxes; raises TileError naming a tile
        that went wrong.
        """
        began = time.perf_counter()
        work = self.load(keys)
        for key, pixels in work.determined.items():
            self.write(key, pixels)
        for key, pixels in self.sampler.restore(work.tiles):
            self.write(key, pixels)
        return self.report(work, time.perf_counter() - began)

    def load(self, keys: Sequence[TileKey]) -> Load:
        """Read tiles of one level whose predecessors are committed; several threads may."""
        tiles = {key: self._retry(lambda key=key: self.reader.read(key)) for key in keys}  # type: ignore[misc]
        filled = dict[TileKey, Array]()
        for key, tile in tiles.items():
            level = self.plan.levels[key.level]
            y0, x0, _, _ = level.grid.box(key)
            inner = Box(*level.grid.owned(key)).shift(-y0, -x0)
            pixels = determined(self.plan, level, tile, inner)
            if pixels is not None:
                filled[key] = pixels
        left = {key: tile for key, tile in tiles.items() if key not in filled}
        return Load(tuple(keys), left, filled)

    def write(self, key: TileKey, pixels: Array) -> None:
        """Write a tile's owned box; on return it is durable."""
        owned = Box(*self.plan.levels[key.level].grid.owned(key))
        self._retry(lambda: self.cells[key.level].write(owned, pixels))

    def substitute(self, keys: Sequence[TileKey]) -> Report:
        """Write what stands in for tiles that cannot be restored."""
        began = time.perf_counter()
        for key in keys:
            self.write(key, substitute(self.sampler, self.reader, key))
        seconds = time.perf_counter() - began
        return Report(tuple(keys), seconds, 0, substituted=True, trouble=self._take_trouble())

    def _retry(self, action: Callable[[], T]) -> T:
        """Do something to the store, again and again while it fails for a while."""
        return retry_store(action, self.plan.spec.run.store_seconds, self._note)

    def _note(self, trouble: str) -> None:
        self.fence()
        self._trouble = trouble

    def report(self, work: Load, seconds: float) -> Report:
        """Return what the driver is told of a batch whose tiles are written."""
        groups = len(self.plan.bands.groups)
        nfe = self.sampler.trajectories[work.keys[0].level].nfe * len(work.tiles) * groups
        return Report(
            work.keys,
            seconds,
            nfe,
            filled=len(work.determined),
            limit=self.sampler.fitting,
            trouble=self._take_trouble(),
        )

    def _take_trouble(self) -> str:
        """Return how the store failed since this was asked for last; empty when it did not."""
        trouble = self._trouble
        self._trouble = ""
        return trouble
