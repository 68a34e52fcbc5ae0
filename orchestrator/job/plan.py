"""Plan: levels, tiles and alignment of a resolved job. Refuses here whatever cannot work, naming
what would.

Size rule: see orchestrator.job.geometry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kernels.denoiser_info import DenoiserInfo
from orchestrator.errors import PlanError
from orchestrator.job.bands import BANDS_AS, GREY_AS, Bands
from orchestrator.job.fields.noise_option import noise_model
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.geometry import Geometry, output_size, padded_side
from orchestrator.job.inputs import InputFacts
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.task import Posed, Task
from orchestrator.job.value_range import Values, stated_values
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
    def rules(self) -> int:
        """Rules that decide the pixels (orchestrator.job.fields.pixel_rules)."""
        rules = self.spec.sampling.pixel_rules
        assert rules is not None, "a plan's specification is resolved"
        return rules

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
        """Whether the measurement belongs to all channels of a picture together, not
        band by band.
        """
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
        source = spec.input
        assert source.bands and source.dtype, "resolve() fills the input's facts"
        task = spec.resolved_task()
        # Without a file black and white are not known yet, and no model changes what is planned.
        model = None if source.path is None else noise_model(spec.task)
        values = Values.build(source.dtype, stated_values(source.values), model, source.bands)
        if values.bands:
            _check_range_of_bands(spec, task)
        bands = _bands(spec, source.bands, task, denoiser)
        geometry = Geometry.build(spec.tiling, task, denoiser)
        return cls(
            spec=spec,
            denoiser=denoiser,
            task=task,
            bands=bands,
            values=values,
            levels=_levels(output_size(spec), geometry, task, _noise(spec, values, bands)),
            inputs=inputs or InputFacts(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A region with its own plan."""

    box: Box
    """Within the output, px."""
    plan: Plan


def _bands(spec: JobSpec, count: int, task: Task, denoiser: DenoiserInfo) -> Bands:
    """Return how the bands of the output meet the network's channels."""
    bands = Bands.build(
        denoiser.channels if task.grey or task.mixes_bands else count,
        denoiser.channels,
        grey_as=spec.input.grey_as or GREY_AS[0],
        bands_as=spec.input.bands_as or BANDS_AS[0],
        noisy=spec.task.noisy,
        fill_up=spec.sampling.pixel_rules == FIRST,
    )
    task.check_bands(count, denoiser.channels, denoiser.name)
    return bands


def _check_range_of_bands(spec: JobSpec, task: Task) -> None:
    """Raise PlanError where bands with black and white of their own cannot be restored together."""
    why = None
    if spec.task.noisy or spec.task.noise is not None:
        why = "its noise has one level for all bands"
    elif task.grey or not task.picture:
        why = "its measurement belongs to all bands together"
    if why is not None:
        raise PlanError(
            f"--range states black and white of each band, and task {task.name} takes one range: "
            f"{why}; give --range LOW,HIGH"
        )


def _noise(spec: JobSpec, values: Values, bands: Bands) -> float:
    """Return the standard deviation of the measurement's noise in the [-1, 1] range, as the network
    is to believe it.

    A network believes in noise that is independent in its channels. What is the same in n of them
    looks, along the axis on which they are equal, sqrt(n) times as strong; told that level, a
    linear denoiser of grey pictures gives the exact posterior mean.
    """
    unit = 2.0 if spec.task.sigma_unit == "fraction" else 2.0 / values.levels
    copies = 1 if spec.sampling.pixel_rules == FIRST else bands.copies
    return (spec.task.sigma * unit + values.noise_deviation) * math.sqrt(copies)


def _levels(
    size: tuple[int, int], geometry: Geometry, task: Task, sigma_y: float
) -> tuple[Level, ...]:
    """Return the levels of an output of `size` (height, width) px, level 0 first."""
    padded = [padded_side(side, geometry, task) for side in size]
    levels = []
    for k in range(geometry.levels):
        factor = FACTOR**k
        posed = task.posed(factor)
        assert posed is not None, "Geometry.build() checks the levels"
        height, width = (-(-side // factor) for side in size)
        overlapping = k == 0 and task.stencil is not None
        sides = [max(side // factor, geometry.tile) for side in padded]
        level = Level(
            index=k,
            height=height,
            width=width,
            posed=posed,
            sigma_y=sigma_y / posed.pool,
            guided=k < geometry.levels - 1,
            grid=geometry.grid(k, sides[0], sides[1], corners=overlapping),
        )
        levels.append(level)
    return tuple(levels)
