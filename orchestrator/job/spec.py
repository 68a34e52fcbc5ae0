"""JobSpec: everything a user can say about one restoration, as a frozen, validated value; TOML in
and out.

A field left at None means "choose for me"; `orchestrator.planning.resolve` fills every one of them
before anything runs, and the resolved specification is what a run folder keeps, so that a later
version's defaults cannot change a resumed run.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tomli_w
from pydantic import BaseModel, Field, ValidationError

from orchestrator.errors import PlanError
from orchestrator.job import schema
from orchestrator.job.fields.pixel_rules import CURRENT, FIRST
from orchestrator.job.fields.sections import InputSpec, Section, TaskFields
from orchestrator.job.tasks.registry import TASKS
from orchestrator.job.tasks.task import Task
from orchestrator.retry import STORE_SECONDS
from orchestrator.shutdown import DRAIN_SECONDS

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(TASKS)]


def _usual_scale(given: dict[str, Any]) -> int:
    return TASKS[given["name"]].default_scale


class TaskSpec(TaskFields):
    """What happened to the image, by the name of one of the tasks."""

    name: TaskName = "sr"
    scale: Annotated[int, Field(ge=1, le=64)] = Field(default_factory=_usual_scale)


class GuidanceSpec(Section):
    """Which class a class-conditional network, or a classifier that guides any network,
    is to draw.
    """

    label: Annotated[int, Field(ge=0)] | None = None
    classifier: str | None = None
    """File of a guided-diffusion classifier."""
    scale: Annotated[float, Field(ge=0)] | None = None
    """Factor of the classifier's gradient."""


class SamplingSpec(Section):
    """How the reverse diffusion runs (method.md sections 1, 2, 7)."""

    always_resolved: ClassVar[tuple[str, ...]] = (
        *("intent", "form", "eta", "steps", "guided_steps", "spacing", "guide", "ensemble"),
        *("inverse", "init", "noise_scale", "travel"),
    )
    """What every resolved job says; nothing is added (orchestrator.job.schema)."""

    pixel_rules: Annotated[int, Field(ge=FIRST, le=CURRENT)] | None = None
    """Rules that decide the pixels (orchestrator.job.fields.pixel_rules); None: the newest."""
    intent: Literal["faithful", "detail", "paper"] | None = None
    quality: Literal["draft", "standard", "paper"] | None = None
    """Number of steps: a quarter of the preset's, the preset's, or the paper's T = 100, l = 10, r =
    3, overlap tile/2.
    """
    method: Literal["ddnm", "repaint", "ilvr", "ddrm", "pigdm", "dps"] = "ddnm"
    """How measurement, guide and known pixels enter a step (kernels.sampling.method_registry)."""
    zeta: Annotated[float, Field(ge=0)] | None = None
    """dps: length of the gradient step."""
    eta_b: Annotated[float, Field(ge=0, le=1)] | None = None
    """ddrm: weight of the measurement against the estimate."""
    ilvr_stop: Annotated[int, Field(ge=0)] | None = None
    """ilvr: base timestep from which the state is no longer conditioned."""
    pins: Literal["replace", "gradient"] | None = None
    """How pixels of earlier tiles enter a tile (kernels.sampling.pinned_pixels)."""
    ddnm_plus: Literal["projector", "scalar"] | None = None
    """ddnm with noise: weights by range and null space, or the paper's one number."""
    clip: bool | None = None
    """Whether the clean estimate is clamped to black and white before it is projected."""
    form: Literal["posterior", "eps"] | None = None
    eta: Annotated[float, Field(ge=0, le=1)] | Literal["ddpm", "analytic"] | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    start: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """First base timestep of a warm start; None or the last one: from pure noise."""
    guided_start: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The same for levels that have a coarser level to start from."""
    guided_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Steps of levels that have a coarser level: the guide leaves less to decide."""
    spacing: Literal["uniform", "log_sigma"] | None = None
    guide: Literal["constraint", "start"] | None = None
    """How the coarser level enters: held at every step (the paper's HiR), or only as the picture of
    a warm start.
    """
    ensemble: Literal["1", "2", "4", "8", "cycle"] | None = None
    """Symmetries of the square that the network is averaged over, or one after another
    (kernels.denoisers.symmetry).
    """
    inverse: Literal["replicate", "smooth"] | None = None
    """A+ of average pooling: replication (Moore-Penrose, the paper's) or a smooth one
    (kernels.operators.smooth_pool).
    """
    init: Literal["bicubic", "predicted", "none"] | None = None
    """Picture of a warm start: the measurement enlarged, or what the built-in prior's companion
    predicts from that.

    Where nothing can be predicted (another task, scale, method or network), `predicted` is taken
    back, with the start and the steps that belong to it."""
    noise_scale: Annotated[float, Field(ge=0, le=1)] | None = None
    travel: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Time travel: length, repeat."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def unpredicted(self) -> SamplingSpec:
        """Return it without a predicted start, and what belongs to one."""
        names = ("init", "start", "guided_start", "steps", "guided_steps")
        return self.model_copy(update=dict.fromkeys(names)) if self.init == "predicted" else self


class TilingSpec(Section):
    """Tile geometry (method.md sections 5 and 6)."""

    always_resolved: ClassVar[tuple[str, ...]] = ("tile", "stride", "margin", "levels", "order")
    """What every resolved job says; nothing is added (orchestrator.job.schema)."""

    tile: Annotated[int, Field(ge=8, le=4096)] | None = None
    stride: Annotated[int, Field(ge=1, le=4096)] | None = None
    margin: Annotated[int, Field(ge=0, le=2048)] | None = None
    """Outer pixels of a tile that it does not commit (orchestrator.tiling.grid); 0 is the paper's
    geometry.
    """
    levels: Annotated[int, Field(ge=1, le=24)] | None = None
    order: Literal["raster", "centre", "bridge", "colour"] | None = None
    block: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Order bridge: tiles along the side of a block."""


class RegionSpec(Section):
    """A region of the output that another model restores first (orchestrator.job.regions)."""

    box: tuple[int, int, int, int]
    """y0, x0, y1, x1 in output px."""
    denoiser: str
    label: Annotated[int, Field(ge=0)] | None = None
    sampling: SamplingSpec | None = None
    """None: as the rest, with another seed and the denoiser's own preset."""
    tiling: TilingSpec | None = None


class RunSpec(Section):
    """Where and how it runs. None of this changes a pixel of a tile that can be restored."""

    executor: Literal["ray", "serial"] = "ray"
    workers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    address: str | None = None
    keep_work: bool = False
    on_failed_tile: Literal["stop", "fill"] = "stop"
    """What becomes of a tile that keeps failing: the run ends without it, or what was measured
    stands in for it.
    """
    drain_seconds: Annotated[float, Field(ge=0)] = DRAIN_SECONDS
    """After a signal: how long running batches may take to end."""
    hang_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A worker hangs when a batch takes this much, and `store_seconds`, longer than five times the
    usual.
    """
    store_seconds: Annotated[float, Field(ge=0)] = STORE_SECONDS
    """How long a failing store is tried again."""


class JobSpec(Section):
    """One restoration job."""

    input: InputSpec = InputSpec()
    output: str | None = None
    denoiser: str = "builtin"
    task: TaskSpec = TaskSpec()
    guidance: GuidanceSpec = GuidanceSpec()
    sampling: SamplingSpec = SamplingSpec()
    tiling: TilingSpec = TilingSpec()
    regions: tuple[RegionSpec, ...] = ()
    run: RunSpec = RunSpec()

    @property
    def kind(self) -> type[Task]:
        """Return the class of the job's task."""
        return TASKS[self.task.name]

    def resolved_task(self) -> Task:
        """Return the task of a resolved job; raises PlanError as its `check` does."""
        self.kind.check(self.task)
        return self.kind(
            scale=self.task.scale,
            stencil=self.kind.stencil_of(self.task),
            fine_mask=self.input.fine_mask,
            dtype=self.input.dtype,
            alignment=self.task.alignment or 1,
        )

    def to_toml(self) -> str:
        """Return the specification as TOML with its version; unset fields are left out."""
        values = self.model_dump(mode="json", exclude_none=True)
        return str(tomli_w.dumps(schema.stamped(values)))

    @classmethod
    def from_toml(cls, text: str, where: str = "the job file") -> JobSpec:
        """Read a specification from TOML text; raises PlanError on one line."""
        return cls.build(schema.read_values(_parse(text, where), where), where)

    @classmethod
    def load(cls, path: Path) -> JobSpec:
        """Read a specification from a TOML file; raises PlanError on one line."""
        return cls.from_toml(_read_text(path), str(path))

    @classmethod
    def load_resolved(cls, path: Path) -> JobSpec:
        """Read the resolved job that a run keeps, of this version or an earlier one; raises
        PlanError on one line.
        """
        where = str(path)
        values = schema.read_values(_parse(_read_text(path), where), where)
        spec = cls.build(schema.with_earlier_defaults(values), where)
        for name, section in (("sampling", spec.sampling), ("tiling", spec.tiling)):
            for field in section.always_resolved:
                if getattr(section, field) is None:
                    raise PlanError(
                        f"{path} does not say {name}.{field}, which every version has written; "
                        "restore to a new OUT"
                    )
        return spec

    @classmethod
    def build(cls, values: dict[str, Any], where: str = "the options") -> JobSpec:
        """Validate nested plain values; raises PlanError that names field, value and limit (unknown
        keys: the nearest).
        """
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise PlanError(f"{where}: {_first_problem(err)}") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as err:
        raise PlanError(f"cannot read {path}: {err.strerror}") from None
    except UnicodeDecodeError:
        raise PlanError(f"{path} is not valid TOML: it is not UTF-8 text") from None


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise PlanError(f"{where} is not valid TOML: {err}") from None


def _first_problem(err: ValidationError) -> str:
    problem = err.errors()[0]
    place = [
        str(part)
        for part in problem["loc"]
        if not str(part).startswith(("constrained", "function", "literal"))
    ]
    name = ".".join(place)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _field_names(place[:-1]), n=1)
        hint = (
            f"; did you mean {near[0]!r}?"
            if near
            else f"; known: {', '.join(_field_names(place[:-1]))}"
        )
        return f"unknown key {name!r}{hint}"
    return f"{name} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _field_names(path: list[str]) -> list[str]:
    model: type[BaseModel] = JobSpec
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)
