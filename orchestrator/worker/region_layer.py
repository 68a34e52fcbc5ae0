"""The restored pixels of a run's regions, laid over the tiles of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.arrays import Array
from orchestrator.job.plan import Plan
from orchestrator.job.regions import covered
from orchestrator.run_folder import RunDir
from orchestrator.tiling.hierarchy import FACTOR
from orchestrator.worker.level_cells import LevelCells
from storage.box import Box


@dataclass(frozen=True, slots=True)
class RegionLayer:
    """The restored pixels of a region, as known pixels of the main run."""

    box: Box
    cells: LevelCells

    @classmethod
    def open(cls, run: RunDir, plan: Plan) -> list[RegionLayer]:
        """Open all regions of a run, which are finished by then."""
        layers = []
        for number, region in enumerate(plan.regions):
            folder = RunDir(run.region(number))
            layers.append(cls(region.box, LevelCells.open(folder, region.plan.levels[0])))
        return layers

    def pin(self, level: int, tile: Box, mask: NDArray[np.bool_], known: Array) -> None:
        """Mark and fill, in place, the pixels of a tile (1, P, P) and (bands, P, P) that the region
        covers wholly.
        """
        g = int(FACTOR**level)
        part = covered(self.box, level).intersect(tile)
        if part.empty:
            return
        fine = self.cells.read(part.scale(g).shift(-self.box.y0, -self.box.x0))
        rows, cols = part.shift(-tile.y0, -tile.x0).slices()
        mask[:, rows, cols] = True
        known[:, rows, cols] = _pool(fine, g)


def _pool(fine: Array, g: int) -> Array:
    if g == 1:
        return fine
    bands, height, width = fine.shape
    cells = fine.reshape(bands, height // g, g, width // g, g)
    return np.asarray(cells.mean(axis=(2, 4), dtype=np.float64), dtype=np.float32)
