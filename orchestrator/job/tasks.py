"""How each task is posed at a coarser restoration level (method.md section 6). Pure integers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernels.operators.hadamard_size import kept_count
from kernels.operators.stencil import Stencil
from orchestrator.errors import PlanError
from orchestrator.job.blur import stencil_of
from orchestrator.job.spec import JobSpec
from orchestrator.job.tolerance import least_margin
from orchestrator.tiling.hierarchy import FACTOR

# Tasks whose pooled picture has no measurement that follows from theirs: they are restored at full
# size only.
FLAT = ("deblur", "cs", "operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Posed:
    """A task's measurement as one level sees it."""

    scale: int
    """Pixels of this level per pixel of `pooled` measurement."""
    pool: int
    """The measurement is average-pooled by this before use; 1 = as it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the degradation consists of; any combination of pooling, grey and mask, or one operator
    of its own.
    """

    name: str
    scale: int
    """Output pixels per measurement pixel; 1 = none. For `cs` the block."""
    grey: bool
    """The measurement is the mean of the channels."""
    masked: bool
    """Only some measurement pixels are known."""
    measured: bool
    """False for generation: there is no measurement."""
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
    def build(cls, name: str, scale: int, sigma: float) -> Task:
        """Check a task's name against its parameters; raises PlanError naming the value and what to
        give instead.
        """
        parts = set(name.split("+"))
        if "sr" in parts and scale < 2:
            raise PlanError(
                f"task {name} needs --scale of at least 2, found {scale}; give for example --scale 4"
            )
        if "sr" not in parts and name not in ("cs", "operator") and scale != 1:
            raise PlanError(
                f"task {name} has no scale, found --scale {scale}; leave it out or use --task sr"
            )
        if name == "denoise" and sigma <= 0:
            raise PlanError(
                "task denoise needs --sigma above 0: the noise's standard deviation in grey levels"
            )
        return cls(
            name=name,
            scale=scale,
            grey="colorize" in parts,
            masked="inpaint" in parts or name == "outpaint",
            measured=name != "generate",
        )

    @classmethod
    def of(cls, spec: JobSpec) -> Task:
        """Return the task of a resolved job; raises PlanError as `build` does."""
        task = cls.build(spec.task.name, spec.task.scale, spec.task.sigma)
        if spec.task.name == "cs":
            kept_count(spec.task.block, spec.task.ratio or 0.0)
        return replace(
            task,
            stencil=stencil_of(spec.task),
            fine_mask=spec.input.fine_mask,
            dtype=spec.input.dtype,
            alignment=spec.task.alignment or 1,
        )

    @property
    def reach(self) -> int:
        """Return how far measurements of level 0 couple pixels of neighbouring cells, px."""
        return 0 if self.stencil is None else self.stencil.reach

    @property
    def least_margin(self) -> int:
        """Return the outer pixels of a window that it must leave to the next one
        (orchestrator.job.tolerance), px.
        """
        return 0 if self.stencil is None else least_margin(self.stencil, self.dtype)

    def posed(self, level_factor: int) -> Posed | None:
        """Return the task at a level `level_factor` times coarser than the output; None where it is
        determined.

        Super-resolution by s keeps y and asks for s/g; at g = s the level is y itself. Everything
        else pools y. A blur of the pooled picture is not the pooled blur, and coefficients say
        nothing of it: those have level 0 only.
        """
        if self.name in FLAT:
            return Posed(scale=self.scale, pool=1) if level_factor == 1 else None
        if level_factor <= self.scale and self.scale % level_factor == 0:
            scale = self.scale // level_factor
            return None if scale == 1 and self.name == "sr" else Posed(scale=scale, pool=1)
        if level_factor > self.scale > 1 and self.name == "sr":
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
