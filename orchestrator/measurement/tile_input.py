"""Everything that is known of a tile before it is restored, and whether that already determines it.
numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator.arrays import Array
from orchestrator.job.bands import Bands
from orchestrator.job.plan import Level, Plan
from orchestrator.measurement.nodata import is_empty
from orchestrator.measurement.windows import to_channels
from storage.box import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class TileInput:
    """One tile's arrays, (bands, h, w) float32 in [-1, 1]."""

    y: Array | None
    known_mask: Array
    """(1, P, P) bool: committed by earlier tiles, or restored as a region of its own."""
    known: Array
    guide: Array | None
    start: Array | None
    fine: Array | None = None
    """(1, P, P): known pixels of a mask at output resolution."""
    empty: bool = False
    """Nothing was measured here: y, where it is a number, is what is near."""

    def split(self, bands: Bands, joint: bool) -> list[TileInput]:
        """Return the tile as the network's pictures; joint: the measurement belongs to all channels
        together.
        """
        parts = [self] * len(bands.groups)
        for name in ("known", "guide", "start") if joint else ("known", "guide", "start", "y"):
            if (array := getattr(self, name)) is not None:
                changes: list[dict[str, Any]] = [{name: part} for part in bands.split(array)]
                parts = [replace(p, **c) for p, c in zip(parts, changes, strict=True)]
        return parts


def determined(plan: Plan, level: Level, tile: TileInput, owned: Box) -> Array | None:
    """Return the pixels (stored bands, h, w) of a tile's owned box where nothing is left to
    restore, else None.

    Four cases: every pixel is pinned already; every pixel is itself measured without noise; the
    measurement under the whole tile is flat to `task.skip_flat`, and the pixels are its
    replication, which measures y exactly (also where noise is stated: what varies by less has none
    of it, like the empty areas of a mosaic); or all of it is nodata, which the output keeps. owned:
    within the tile, px.
    """
    rows, cols = owned.slices()
    pinned = tile.known_mask[:, rows, cols]
    known = tile.known[:, rows, cols]
    if pinned.all():
        return known
    if tile.y is None or not plan.task.pixelwise:
        return None
    nothing = tile.empty or is_empty(plan, tile.y)
    scale = level.posed.scale
    cells = tile.y[:, owned.y0 // scale : owned.y1 // scale, owned.x0 // scale : owned.x1 // scale]
    complete = level.sigma_y == 0 and scale == 1 and not plan.grey and not np.isnan(cells).any()
    if not complete and not nothing and not _flat(plan, tile.y):
        return None
    if nothing:
        cells = np.nan_to_num(cells)
    pixels = to_channels(cells.repeat(scale, axis=1).repeat(scale, axis=2), plan.bands.stored)
    return np.where(pinned, known, pixels)


def _flat(plan: Plan, y: Array) -> bool:
    """Return whether every band of a window differs by no more than the tolerance; unknown pixels
    are not flat.
    """
    tolerance = plan.spec.task.skip_flat
    if tolerance is None or np.isnan(y).any():
        return False
    spread = y.max(axis=(1, 2)) - y.min(axis=(1, 2))
    # Half a level of slack for the float32 of [-1, 1]: stored values are whole.
    return bool((spread <= (tolerance + 0.5) * 2.0 / plan.values.levels).all())
