"""A level's working array in the level's own pixels: hides that the cell lattice begins a little
before the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import Array
from orchestrator.job.plan import Level, Plan
from orchestrator.run_folder import RunDir
from storage.box import Box
from storage.run_store.cells import Cells


@dataclass(frozen=True, slots=True)
class LevelCells:
    """Cells of one level; boxes are in px of the padded level."""

    cells: Cells
    offset: int

    @classmethod
    def create(cls, run: RunDir, plan: Plan, level: Level) -> None:
        """Create a level's empty working array."""
        path = run.work(level.index)
        grid = level.grid
        path.parent.mkdir(parents=True, exist_ok=True)
        height = grid.rows.length + grid.cell_offset
        width = grid.cols.length + grid.cell_offset
        Cells.create(path, channels=plan.bands.stored, height=height, width=width, cell=grid.cell)

    @classmethod
    def open(cls, run: RunDir, level: Level) -> LevelCells:
        return cls(Cells.open(run.work(level.index)), level.grid.cell_offset)

    def read(self, box: Box) -> Array:
        """Read committed pixels as (C, h, w) float32."""
        return self.cells.read(box.shift(self.offset, self.offset))

    def write(self, box: Box, pixels: Array) -> bool:
        """Write an owned box (C, h, w); returns False when an earlier attempt had already written
        some of it.
        """
        return self.cells.write(self._stored(box), self._stored_pixels(box, pixels))

    def exists(self, box: Box) -> bool:
        """Return whether every cell of an owned box is there."""
        return self.cells.exists(self._stored(box))

    def delete(self, box: Box) -> None:
        """Delete the cells of an owned box."""
        self.cells.delete(self._stored(box))

    def _stored(self, box: Box) -> Box:
        """Return the box in the array; one at the image's first edge takes the pixels before it
        along.
        """
        moved = box.shift(self.offset, self.offset)
        y0 = 0 if box.y0 == 0 else moved.y0
        x0 = 0 if box.x0 == 0 else moved.x0
        return Box(y0, x0, moved.y1, moved.x1)

    def _stored_pixels(self, box: Box, pixels: Array) -> Array:
        """Return the pixels of `_stored`: those before the image repeat its first ones."""
        above = self.offset if box.y0 == 0 else 0
        before = self.offset if box.x0 == 0 else 0
        padded = np.pad(pixels, ((0, 0), (above, 0), (before, 0)), mode="edge")
        return np.ascontiguousarray(padded)
