"""What the rest of the program asks of a task: the class that every task of this room extends.

A measurement is one of three things. Cells: every value is the mean of the known pixels of a cell,
perhaps of all channels (sr, colorize, inpaint, outpaint, denoise). A stencil: values overlap
(deblur, bicubic sr). An operator of the task's own, for which `picture` is False (cs, operator).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kernels.operators.stencil import Stencil
from kernels.presets import INTENTS, Preset
from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import AUTO, InputSpec, TaskFields
from orchestrator.job.fields.tolerance import least_margin
from orchestrator.tiling.hierarchy import FACTOR

if TYPE_CHECKING:
    from kernels.operators.linear_operator import Operator

NEEDS_PAD = "task outpaint needs --pad TOP,RIGHT,BOTTOM,LEFT, and no other task takes it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Posed:
    """A task's measurement as one level sees it."""

    scale: int
    """Pixels of this level per pixel of `pooled` measurement."""
    pool: int
    """The measurement is average-pooled by this before use; 1 = as it was read."""


@dataclass(frozen=True, slots=True)
class OwnOption:
    """An option that one task takes and all others refuse."""

    flag: str
    """As it is typed."""
    given: Callable[[TaskFields], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A way of degrading clean images, to evaluate priors on a task."""

    name: str
    task: Mapping[str, Any]
    """Fields of the task's specification."""
    random: bool = False
    """Whether the measurement differs from seed to seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A resolved task; what is the same for all jobs of a task stands in the class."""

    name: ClassVar[str] = ""
    place: ClassVar[int] = 100
    """Where help texts and messages name it: ascending."""
    measured: ClassVar[bool] = True
    """False for generation: there is no measurement."""
    grey: ClassVar[bool] = False
    """The measurement is the mean of the channels."""
    masked: ClassVar[bool] = False
    """Only some measurement pixels are known."""
    takes_mask: ClassVar[bool] = False
    """The user says which are known: --mask or --nodata."""
    takes_pad: ClassVar[bool] = False
    """Pixels around the input are to be invented: --pad."""
    scaled: ClassVar[bool] = False
    """Output pixels are not input pixels: the scale is given, or read from measurement or operator.
    """
    least_scale: ClassVar[int] = 1
    default_scale: ClassVar[int] = 1
    """Scale where the user gives none."""
    enlarges: ClassVar[bool] = False
    """The measurement is the reduced picture and nothing else: at its own size it is a level's
    result, a coarser level may serve as a start only, and the start may be predicted.
    """
    starts_at_its_noise: ClassVar[bool] = False
    """The measurement is a state of the diffusion, at the timestep whose noise it has."""
    has_coarser_levels: ClassVar[bool] = True
    """False where no measurement of the pooled picture follows from the measurement."""
    under_output: ClassVar[bool] = True
    """The input lies under the output pixel by pixel, so that a region of one is one of the other.
    """
    picture: ClassVar[bool] = True
    """The measurement is a picture; False for coefficients and operators of the user's own."""
    coefficients: ClassVar[bool] = False
    """The input is an array of coefficients, which is read where it is."""
    mixes_bands: ClassVar[bool] = False
    """The measurement's bands are not the picture's."""
    own_options: ClassVar[tuple[OwnOption, ...]] = ()
    presets: ClassVar[Mapping[str, Preset]] = INTENTS
    """By intent; the intent paper has one preset for all tasks."""
    preset_changes: ClassVar[Mapping[str, Any]] = {}
    """Sampling defaults that differ from the preset, except from the paper's."""
    trials: ClassVar[tuple[Trial, ...]] = ()

    scale: int
    """Output pixels per measurement pixel; 1 = none. For `cs` the block."""
    stencil: Stencil | None = None
    """Overlapping measurements of level 0 (deblur, bicubic sr); None where they are cells of their
    own.
    """
    fine_mask: bool = False
    """The mask has the output's pixels: level 0 averages over the known pixels of each cell."""
    dtype: str | None = None
    """Stored dtype; None where it is not known yet."""
    alignment: int = 1
    """Pixels that windows of level 0 must be multiples of besides the scale (operator)."""

    @classmethod
    def check(cls, given: TaskFields) -> None:
        """Raise PlanError for a parameter that the task cannot have, naming what to
        give instead.
        """
        if given.scale < cls.least_scale:
            raise PlanError(
                f"task {cls.name} needs --scale of at least {cls.least_scale}, "
                f"found {given.scale}; give for example --scale 4"
            )
        if given.scale != 1 and not cls.scaled:
            raise PlanError(
                f"task {cls.name} has no scale, found --scale {given.scale}; "
                "leave it out or use --task sr"
            )
        if given.noise_from == AUTO and not (cls.measured and cls.picture):
            raise PlanError(
                f"--sigma auto looks at a picture, and task {cls.name} measures none; "
                "give --sigma LEVELS"
            )

    @classmethod
    def check_input(cls, given: InputSpec) -> None:
        """Raise PlanError for an option of the input that is missing, or that the task does not
        take.
        """
        if not cls.measured and given.path is not None:
            raise PlanError(
                f"task {cls.name} takes no input image; give --size HEIGHTxWIDTH instead"
            )
        marked = given.mask is not None or given.nodata is not None
        if cls.takes_mask and not marked and given.path is not None:
            raise PlanError(
                f"task {cls.name} needs --mask FILE, an image of the input's size, "
                "white where it is known, or --nodata VALUE, which marks unknown samples "
                "in the input itself"
            )
        if marked and not cls.takes_mask:
            option = "--mask" if given.mask is not None else "--nodata"
            raise PlanError(f"task {cls.name} takes no {option}; use --task inpaint")
        if given.mask_holes is not None and given.mask is None:
            raise PlanError(
                f"--mask-holes {given.mask_holes} has no effect without --mask; leave it out"
            )
        if (given.pad is not None) != cls.takes_pad:
            raise PlanError(NEEDS_PAD)
        if given.pad is not None and not any(given.pad):
            raise PlanError(
                "--pad 0,0,0,0 leaves nothing to invent; give pixels on at least one side"
            )

    @classmethod
    def check_bands(cls, bands: int, channels: int, denoiser: str) -> None:
        """Raise PlanError where a measurement of so many bands cannot meet the
        network's channels.
        """

    @classmethod
    def inspect(cls, path: str) -> Any:
        """Describe an input that is no image file; None: it is one."""
        return None

    @classmethod
    def input_fields(cls, measurement: Any) -> dict[str, Any]:
        """Return what `inspect` found as fields of the input: size, bands, dtype, extent."""
        return {}

    @classmethod
    def resolve(cls, given: TaskFields, measurement: Any, channels: int) -> TaskFields:
        """Return the task with what it reads from a file or an operator; raises PlanError.

        measurement: what `inspect` found; channels: of the network.
        """
        return given

    @classmethod
    def stencil_of(cls, given: TaskFields) -> Stencil | None:
        """Return the stencil of a resolved task; None where measurements are cells of their own."""
        return None

    @classmethod
    def takes_regions(cls, given: TaskFields, source: InputSpec) -> bool:
        """Tell whether a part of the output can be restored as a job of its own."""
        return cls.under_output and cls.stencil_of(given) is None and not source.fine_mask

    @classmethod
    def operator(cls, given: TaskFields) -> Operator:
        """Return the operator of a resolved task that is no picture; loads torch."""
        raise NotImplementedError(f"the operator of task {cls.name} is built from its cells")

    @property
    def pixelwise(self) -> bool:
        """Whether A averages cells, so that a flat measurement is that of flat pixels."""
        return self.measured and self.picture and self.stencil is None

    @property
    def reach(self) -> int:
        """Return how far measurements of level 0 couple pixels of neighbouring cells, px."""
        return 0 if self.stencil is None else self.stencil.reach

    @property
    def least_margin(self) -> int:
        """Return the outer pixels of a window that it must leave to the next one
        (orchestrator.job.fields.tolerance), px.
        """
        return 0 if self.stencil is None else least_margin(self.stencil, self.dtype)

    def posed(self, level_factor: int) -> Posed | None:
        """Return the task at a level `level_factor` times coarser than the output; None where it is
        determined.

        Super-resolution by s keeps y and asks for s/g; at g = s the level is y itself. Everything
        else pools y. A blur of the pooled picture is not the pooled blur, and coefficients say
        nothing of it: those have level 0 only.
        """
        if not self.has_coarser_levels:
            return Posed(scale=self.scale, pool=1) if level_factor == 1 else None
        if level_factor <= self.scale and self.scale % level_factor == 0:
            scale = self.scale // level_factor
            return None if scale == 1 and self.enlarges else Posed(scale=scale, pool=1)
        if level_factor > self.scale > 1 and self.enlarges:
            return None
        if level_factor % self.scale == 0:
            return Posed(scale=1, pool=level_factor // self.scale)
        return None

    def deepest(self, height: int, width: int, tile: int) -> int:
        """Return the coarsest level worth having: it fits one tile, or the next one is determined
        (method.md 6).
        """
        level = 0
        while (
            max(height, width) > tile * FACTOR**level
            and self.posed(FACTOR ** (level + 1)) is not None
        ):
            level += 1
        return level
