"""What stands in for a tile that cannot be restored: what was measured of it, brought to its size,
and what is pinned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kernels.resample import fill_unknown
from orchestrator.measurement.tile_input import TileInput
from orchestrator.tiling.grid import TileKey

if TYPE_CHECKING:
    from orchestrator.arrays import Array
    from orchestrator.worker.worker import Worker


def substitute(worker: Worker, key: TileKey) -> Array:
    """Return the pixels (stored bands, h, w) of a tile's owned box without its network.

    A picture without detail (the measurement enlarged, else the coarser level, else the pinned
    pixels continued) on which the tile's constraints are imposed once: A+ y + (1 - A+ A) x with
    that picture as x. A measurement that cannot be read is left out; what follows from it then does
    not hold there.
    """
    level = worker.plan.levels[key.level]
    bands = worker.plan.bands
    tile, start = worker.reader.salvage(key)
    pictures = tile.split(bands, worker.plan.joint)
    problem = worker.problem(level, [key] * len(pictures), pictures)
    if start is None:
        start = _plain(tile)
    x = torch.stack([torch.from_numpy(part.copy()) for part in bands.split(start)]).to(
        worker.device
    )
    if problem.guide is not None:  # first, so that only the finest measurement disturbs it
        x = problem.guide.project(x)
    return worker.crop(
        key, worker.finished(problem, level, [key] * len(pictures), problem.close(x)).cpu()
    )


def _plain(tile: TileInput) -> Array:
    """Return the pinned pixels continued over the window, (bands, P, P); mid-grey where nothing is
    pinned.
    """
    known = tile.known.copy()
    known[:, ~tile.known_mask[0]] = float("nan")
    return fill_unknown(known) if tile.known_mask.any() else tile.known * 0
