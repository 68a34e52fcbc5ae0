"""Plan: levels, tiles and alignment of a resolved job. Refuses here whatever cannot work, naming
what would.

Size rule: the output is padded on its bottom and right with reflected measurement to a multiple of
what the operator and the hierarchy need, and to one tile where it is smaller; publishing crops. No
image size is refused for its parity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kernels.denoisers.info import DenoiserInfo
from orchestrator.errors import PlanError
from orchestrator.job.bands import Bands
from orchestrator.job.inputs import InputFacts
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.task import Posed, Task
from orchestrator.job.value_range import Values
from orchestrator.tiling.axis import BLOCK
from orchestrator.tiling.grid import TileGrid
from orchestrator.tiling.hierarchy import FACTOR
from orchestrator.tiling.task_graph import TaskGraph
from storage.box import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One restoration level."""

    index: int
    """0 is full size, k is FACTOR**k times coarser."""
    height: int
    """Valid height, px; the rest up to the grid's length is padding that publishing crops."""
    width: int
    posed: Posed
    sigma_y: float
    """Standard deviation of this level's measurement noise in the [-1, 1] range."""
    guided: bool
    """True when a coarser level exists: its result is the low-frequency constraint and the start.
    """
    grid: TileGrid

    @property
    def factor(self) -> int:
        return int(FACTOR**self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that the geometry of a job determines; built from integers, no pixels."""

    spec: JobSpec
    """Resolved: no field that changes pixels is unset."""
    denoiser: DenoiserInfo
    task: Task
    bands: Bands
    """How the output's bands meet the network's channels."""
    values: Values
    """Which stored values are black and white."""
    levels: tuple[Level, ...]
    """Level 0 first."""
    inputs: InputFacts = field(default_factory=InputFacts)
    """What the input's files say of themselves; empty in a plan that was read from a run's job."""
    regions: tuple[Region, ...] = ()
    """Parts of the output that are restored first, by models of their own."""

    @property
    def height(self) -> int:
        return self.levels[0].height

    @property
    def width(self) -> int:
        return self.levels[0].width

    @property
    def out_channels(self) -> int:
        """Bands of the output."""
        return self.bands.count

    @property
    def grey(self) -> bool:
        """Whether the measurement is the mean of the network's channels."""
        return self.task.grey or self.bands.grey

    @property
    def joint(self) -> bool:
        """Whether the measurement belongs to all channels of a picture together, not band by band."""
        return self.grey or not self.task.picture

    @property
    def dtype(self) -> str:
        """Stored dtype of the output: the input's."""
        assert self.spec.input.dtype is not None, "a plan's specification is resolved"
        return self.spec.input.dtype

    @property
    def tile(self) -> int:
        assert self.spec.tiling.tile is not None, "a plan's specification is resolved"
        return self.spec.tiling.tile

    def graph(self) -> TaskGraph:
        return TaskGraph([level.grid for level in self.levels], FACTOR)

    @classmethod
    def build(cls, spec: JobSpec, denoiser: DenoiserInfo, inputs: InputFacts | None = None) -> Plan:
        """Plan a resolved job; raises PlanError on one line."""
        assert spec.input.size and spec.input.bands and spec.input.dtype, (
            "resolve() fills the input's facts"
        )
        channels = spec.input.bands
        dtype = spec.input.dtype
        task = spec.resolved_task()
        given = spec.input
        values = Values.build(dtype, spec.input.values)
        bands = Bands.build(
            denoiser.channels if task.grey or task.mixes_bands else channels,
            denoiser.channels,
            grey_as=given.grey_as or "replicate",
            bands_as=given.bands_as or "groups",
        )
        task.check_bands(channels, denoiser.channels, denoiser.name)
        tiling = spec.tiling
        assert tiling.tile and tiling.stride and tiling.levels and tiling.order, (
            "resolve() fills the tiling"
        )
        assert tiling.margin is not None, "resolve() fills the tiling"
        last = tiling.levels - 1
        check_levels(task, tiling.levels)
        _check_alignment(task, tiling.tile, tiling.stride, tiling.margin, last, denoiser)
        check_reach(task, tiling.tile, tiling.stride, tiling.margin)
        full = output_size(spec)
        sizes = [_padded(side, task, tiling.tile, last) for side in full]
        sigma_y = spec.task.sigma * (
            2.0 if spec.task.sigma_unit == "fraction" else 2.0 / values.levels
        )
        levels = []
        for k in range(tiling.levels):
            posed = task.posed(FACTOR**k)
            assert posed is not None, "checked above"
            padded = [max(side // FACTOR**k, tiling.tile) for side in sizes]
            geometry = (
                tiling.tile,
                tiling.stride,
                tiling.order,
                tiling.margin,
                tiling.block or BLOCK,
            )
            overlapping = k == 0 and task.stencil is not None
            grid = TileGrid.build(k, padded[0], padded[1], *geometry, corners=overlapping)
            valid = [-(-side // FACTOR**k) for side in full]
            levels.append(
                Level(
                    index=k,
                    height=valid[0],
                    width=valid[1],
                    posed=posed,
                    sigma_y=sigma_y / posed.pool,
                    guided=k < last,
                    grid=grid,
                )
            )
        return cls(
            spec=spec,
            denoiser=denoiser,
            task=task,
            bands=bands,
            values=values,
            levels=tuple(levels),
            inputs=inputs or InputFacts(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A region with its own plan."""

    box: Box
    """Within the output, px."""
    plan: Plan


def alignment(task: Task, level: int, last: int) -> int:
    """Return what tile starts and sizes must be multiples of at a level: operator scale and
    hierarchy factor.
    """
    posed = task.posed(FACTOR**level)
    assert posed is not None, "levels are checked before their alignment"
    own = task.alignment if level == 0 else 1
    return math.lcm(posed.scale, own, FACTOR if level < last else 1)


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
    unit = math.lcm(multiple, *(alignment(task, k, levels - 1) for k in range(levels)))
    return max(unit, round(wanted / unit) * unit)


def fitting_stride(task: Task, wanted: int, tile: int, levels: int) -> int:
    """Return the stride nearest to `wanted`, below the tile, that operator and hierarchy accept.

    A divisor of the tile is preferred where one is near: its cells are as large as the stride.
    """
    unit = math.lcm(1, *(alignment(task, k, levels - 1) for k in range(levels)))
    wanted = min(wanted, max(tile - 2 * task.least_margin, unit))
    choices = range(unit, tile, unit)
    if not choices:
        raise PlanError(
            f"tile {tile} has no room for an overlap at scale {task.scale}; choose a tile of {2 * unit} or more"
        )
    return min(choices, key=lambda s: (abs(s - wanted), tile % s))


def fitting_margin(task: Task, tile: int, stride: int, levels: int) -> int:
    """Return half the overlap, rounded down to what operator and hierarchy accept."""
    unit = math.lcm(1, *(alignment(task, k, levels - 1) for k in range(levels)))
    return (tile - stride) // 2 // unit * unit


def check_levels(task: Task, levels: int) -> None:
    """Raise PlanError naming the most levels that a task can have when it is asked for more."""
    for most in range(levels):
        if task.posed(FACTOR**most) is None:
            raise PlanError(
                f"--levels {levels} is more than task {task.name} with scale {task.scale} can have: at level {most} "
                f"the measurement already determines the image or does not divide; choose --levels {most} or fewer"
            )


def _check_alignment(
    task: Task, tile: int, stride: int, margin: int, last: int, denoiser: DenoiserInfo
) -> None:
    unit = math.lcm(1, *(alignment(task, k, last) for k in range(last + 1)))
    whole = math.lcm(unit, denoiser.multiple)
    if denoiser.fixed_tile and tile != denoiser.tile:
        raise PlanError(
            f"{denoiser.name} works on tiles of {denoiser.tile} px only, found --tile {tile}"
        )
    if tile % whole:
        least = -(-2 * unit // whole) * whole  # below that no stride is left
        below = tile // whole * whole
        above = max(tile // whole * whole + whole, least)
        sizes = f"{below} or {above}" if below >= least else f"{above}"
        why = f"scale {task.scale}, {last + 1} levels and {denoiser.name} (sides in multiples of {denoiser.multiple})"
        raise PlanError(
            f"tile {tile} does not fit {why}: it must be a multiple of {whole}; choose {sizes}"
        )
    if stride >= tile:
        raise PlanError(
            f"stride {stride} leaves no overlap between tiles of {tile} px; choose a stride below {tile}"
        )
    if stride % unit:
        below = stride // unit * unit
        sizes = " or ".join(str(size) for size in (below, below + unit) if 0 < size < tile)
        raise PlanError(
            f"stride {stride} does not fit scale {task.scale} and {last + 1} levels; choose {sizes}"
        )
    most = (tile - stride) // 2
    if margin > most:
        raise PlanError(
            f"margin {margin} is more than half of the overlap of {tile - stride} px; "
            f"choose {most // unit * unit} or less"
        )
    if margin % unit:
        raise PlanError(
            f"margin {margin} is not a multiple of {unit}; choose {margin // unit * unit}"
        )


def check_reach(task: Task, tile: int, stride: int, margin: int) -> None:
    """Raise PlanError where measurements that overlap (blur, bicubic) are too wide for tile,
    overlap or margin.

    Every measurement across a border between two tiles must lie wholly inside both: what a tile
    commits must be something that the next one can continue.
    """
    if task.stencil is None:
        return
    widest = max(task.stencil.taps)
    reach = task.reach
    least = task.least_margin
    if 2 * least + task.scale > tile:
        raise PlanError(
            f"kernel of {widest} px is too large for tiles of {tile} px; choose --tile {2 * least + task.scale} or more"
        )
    if margin < least:
        raise PlanError(
            f"margin {margin} is less than a kernel of {widest} px needs; choose --margin {least} or more"
        )
    if tile - stride - margin < reach:
        most = tile - margin - reach
        raise PlanError(
            f"stride {stride} leaves too little overlap for a kernel of {widest} px; choose --stride {most} or less"
        )
    if stride < reach:
        raise PlanError(
            f"stride {stride} lets a kernel of {widest} px reach over a whole tile; choose --stride {reach} or more"
        )


def _padded(side: int, task: Task, tile: int, last: int) -> int:
    unit = math.lcm(1, *(alignment(task, k, last) * FACTOR**k for k in range(last + 1)))
    return max(-(-side // unit) * unit, tile)
