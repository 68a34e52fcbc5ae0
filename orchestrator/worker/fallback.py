"""What stands in for a tile that cannot be restored: what was measured of it, brought to its size,
and what is pinned.
"""

from __future__ import annotations

import torch

from kernels.resample import fill_unknown
from orchestrator.arrays import Array
from orchestrator.measurement.tile_input import TileInput
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.tile_reader import TileReader
from orchestrator.worker.tile_sampler import TileSampler


def substitute(sampler: TileSampler, reader: TileReader, key: TileKey) -> Array:
    """Return the pixels (stored bands, h, w) of a tile's owned box without its network.

    A picture without detail (the measurement enlarged, else the coarser level, else the pinned
    pixels continued) on which the tile's constraints are imposed once: A+ y + (1 - A+ A) x with
    that picture as x. A measurement that cannot be read is left out; what follows from it then does
    not hold there.
    """
    plan = sampler.plan
    level = plan.levels[key.level]
    tile, start = reader.salvage(key)
    pictures = tile.split(plan.bands, plan.joint)
    keys = [key] * len(pictures)
    problem = sampler.problems.build(level, keys, pictures)
    plain = _plain(tile) if start is None else start
    parts = [torch.from_numpy(part.copy()) for part in plan.bands.split(plain)]
    x = torch.stack(parts).to(sampler.device)
    if problem.guide is not None:  # first, so that only the finest measurement disturbs it
        x = problem.guide.project(x)
    restored = sampler.problems.finish(problem, level, keys, problem.close(x))
    storable = sampler.problems.within_black_and_white(restored.cpu(), level, problem)
    pixels = sampler.crop(key, storable)
    return plan.values.unrestored(pixels) if level.index == 0 else pixels


def _plain(tile: TileInput) -> Array:
    """Return the pinned pixels continued over the window, (bands, P, P); mid-grey where nothing is
    pinned.
    """
    known = tile.known.copy()
    known[:, ~tile.known_mask[0]] = float("nan")
    return fill_unknown(known) if tile.known_mask.any() else tile.known * 0
