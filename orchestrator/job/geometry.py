"""Sizes of tiles that operator, hierarchy and network accept; refuses the others, naming what fits.

Size rule: the output is padded on its bottom and right with reflected measurement to a multiple of
what the operator and the hierarchy need, and to one tile where it is smaller; publishing crops. No
image size is refused for its parity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernels.denoiser_info import DenoiserInfo
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec, TilingSpec
from orchestrator.job.tasks.task import Task
from orchestrator.tiling.axis import BLOCK
from orchestrator.tiling.grid import TileGrid
from orchestrator.tiling.hierarchy import FACTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A resolved tiling that was checked; px."""

    tile: int
    stride: int
    margin: int
    levels: int
    order: str
    block: int

    @classmethod
    def build(cls, tiling: TilingSpec, task: Task, denoiser: DenoiserInfo) -> Geometry:
        """Check a resolved tiling; raises PlanError on one line."""
        assert tiling.tile and tiling.stride and tiling.levels and tiling.order, (
            "resolve() fills the tiling"
        )
        assert tiling.margin is not None, "resolve() fills the tiling"
        geometry = cls(
            tile=tiling.tile,
            stride=tiling.stride,
            margin=tiling.margin,
            levels=tiling.levels,
            order=tiling.order,
            block=tiling.block or BLOCK,
        )
        check_levels(task, geometry.levels)
        _check_alignment(task, geometry, denoiser)
        _check_reach(task, geometry)
        return geometry

    def grid(self, level: int, height: int, width: int, *, corners: bool) -> TileGrid:
        """Lay tiles over a padded level of height x width px."""
        return TileGrid.build(
            level,
            height,
            width,
            self.tile,
            self.stride,
            self.order,
            self.margin,
            self.block,
            corners=corners,
        )


def alignment(task: Task, level: int, last: int) -> int:
    """Return what tile starts and sizes must be multiples of at a level: operator scale and
    hierarchy factor.
    """
    posed = task.posed(FACTOR**level)
    assert posed is not None, "levels are checked before their alignment"
    own = task.alignment if level == 0 else 1
    return math.lcm(posed.scale, own, FACTOR if level < last else 1)


def common_unit(task: Task, levels: int) -> int:
    """Return what tile starts and sizes must be multiples of, at whatever level."""
    return math.lcm(1, *(alignment(task, k, levels - 1) for k in range(levels)))


def lattice(task: Task, levels: int) -> int:
    """Return the side of the cells, in px of the output, that no level's cell cuts."""
    return math.lcm(1, *(alignment(task, k, levels - 1) * FACTOR**k for k in range(levels)))


def padded_side(side: int, geometry: Geometry, task: Task) -> int:
    """Return a side of the output, padded to whole cells of all levels, and to one tile."""
    unit = lattice(task, geometry.levels)
    return max(-(-side // unit) * unit, geometry.tile)


def output_size(spec: JobSpec) -> tuple[int, int]:
    """Return the output's height and width, px: the input's times the scale, or padded, or what its
    file says.
    """
    assert spec.input.size is not None, "resolve() fills the input's facts"
    if spec.input.extent is not None:
        return spec.input.extent
    top, right, bottom, left = spec.input.pad or (0, 0, 0, 0)
    height, width = (side * spec.task.scale for side in spec.input.size)
    return height + top + bottom, width + left + right


def fitting_tile(task: Task, wanted: int, levels: int, multiple: int) -> int:
    """Return the tile size nearest to `wanted` that operator, hierarchy and network accept."""
    unit = math.lcm(multiple, common_unit(task, levels))
    return max(unit, round(wanted / unit) * unit)


def fitting_stride(task: Task, wanted: int, tile: int, levels: int) -> int:
    """Return the stride nearest to `wanted`, below the tile, that operator and hierarchy accept.

    A divisor of the tile is preferred where one is near: its cells are as large as the stride.
    """
    unit = common_unit(task, levels)
    wanted = min(wanted, max(tile - 2 * task.least_margin, unit))
    choices = range(unit, tile, unit)
    if not choices:
        raise PlanError(
            f"tile {tile} has no room for an overlap at scale {task.scale}; choose a tile of "
            f"{2 * unit} or more"
        )
    return min(choices, key=lambda s: (abs(s - wanted), tile % s))


def fitting_margin(task: Task, tile: int, stride: int, levels: int) -> int:
    """Return half the overlap, rounded down to what operator and hierarchy accept."""
    unit = common_unit(task, levels)
    return (tile - stride) // 2 // unit * unit


def check_levels(task: Task, levels: int) -> None:
    """Raise PlanError naming the most levels that a task can have when it is asked for more."""
    for most in range(levels):
        if task.posed(FACTOR**most) is None:
            raise PlanError(
                f"--levels {levels} is more than task {task.name} with scale {task.scale} can "
                f"have: at level {most} "
                "the measurement already determines the image or does not divide; choose "
                f"--levels {most} or fewer"
            )


def _check_alignment(task: Task, geometry: Geometry, denoiser: DenoiserInfo) -> None:
    """Raise PlanError, naming sizes that fit, where operator, hierarchy or network cut a cell."""
    unit = common_unit(task, geometry.levels)
    _check_tile(task, geometry, denoiser, unit)
    _check_stride(task, geometry, unit)
    _check_margin(geometry, unit)


def _check_tile(task: Task, geometry: Geometry, denoiser: DenoiserInfo, unit: int) -> None:
    tile = geometry.tile
    if denoiser.fixed_tile and tile != denoiser.tile:
        raise PlanError(
            f"{denoiser.name} works on tiles of {denoiser.tile} px only, found --tile {tile}"
        )
    multiple = math.lcm(unit, denoiser.multiple)
    if tile % multiple == 0:
        return
    least = -(-2 * unit // multiple) * multiple  # below that no stride is left
    below = tile // multiple * multiple
    above = max(below + multiple, least)
    sizes = f"{below} or {above}" if below >= least else f"{above}"
    why = (
        f"scale {task.scale}, {geometry.levels} levels and {denoiser.name} "
        f"(sides in multiples of {denoiser.multiple})"
    )
    raise PlanError(
        f"tile {tile} does not fit {why}: it must be a multiple of {multiple}; choose {sizes}"
    )


def _check_stride(task: Task, geometry: Geometry, unit: int) -> None:
    tile = geometry.tile
    stride = geometry.stride
    if stride >= tile:
        raise PlanError(
            f"stride {stride} leaves no overlap between tiles of {tile} px; "
            f"choose a stride below {tile}"
        )
    if stride % unit:
        below = stride // unit * unit
        sizes = " or ".join(str(size) for size in (below, below + unit) if 0 < size < tile)
        raise PlanError(
            f"stride {stride} does not fit scale {task.scale} and {geometry.levels} levels; "
            f"choose {sizes}"
        )


def _check_margin(geometry: Geometry, unit: int) -> None:
    margin = geometry.margin
    overlap = geometry.tile - geometry.stride
    most = overlap // 2
    if margin > most:
        raise PlanError(
            f"margin {margin} is more than half of the overlap of {overlap} px; "
            f"choose {most // unit * unit} or less"
        )
    if margin % unit:
        raise PlanError(
            f"margin {margin} is not a multiple of {unit}; choose {margin // unit * unit}"
        )


def _check_reach(task: Task, geometry: Geometry) -> None:
    """Raise PlanError where measurements that overlap (blur, bicubic) are too wide for tile,
    overlap or margin.

    Every measurement across a border between two tiles must lie wholly inside both: what a tile
    commits must be something that the next one can continue.
    """
    if task.stencil is None:
        return
    tile = geometry.tile
    stride = geometry.stride
    margin = geometry.margin
    widest = max(task.stencil.taps)
    reach = task.reach
    least = task.least_margin
    if 2 * least + task.scale > tile:
        raise PlanError(
            f"kernel of {widest} px is too large for tiles of {tile} px; choose --tile "
            f"{2 * least + task.scale} or more"
        )
    if margin < least:
        raise PlanError(
            f"margin {margin} is less than a kernel of {widest} px needs; choose --margin "
            f"{least} or more"
        )
    if tile - stride - margin < reach:
        most = tile - margin - reach
        raise PlanError(
            f"stride {stride} leaves too little overlap for a kernel of {widest} px; choose "
            f"--stride {most} or less"
        )
    if stride < reach:
        raise PlanError(
            f"stride {stride} lets a kernel of {widest} px reach over a whole tile; choose "
            f"--stride {reach} or more"
        )
