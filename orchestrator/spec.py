"""JobSpec: everything a user can say about one restoration, as a frozen, validated value; TOML in and out.

A field left at None means "choose for me"; `orchestrator.plan.resolve` fills every one of them before anything runs,
and the resolved specification is what a run folder keeps, so that a later version's defaults cannot change a resumed run.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import PlanError

TaskName = Literal["sr", "colorize", "inpaint", "denoise", "generate", "sr+colorize", "inpaint+colorize+sr"]
SigmaUnit = Literal["levels", "fraction"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Section):
    """The measurement: an image file, and for inpainting a mask file of the same size (non-zero = known)."""

    path: str | None = None
    mask: str | None = None
    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """Height and width in px: read from the file; given by the user where there is no file (generate, plan)."""
    bands: Annotated[int, Field(gt=0)] | None = None
    """Number of bands, read from the file."""
    dtype: str | None = None
    """Stored dtype, read from the file."""


class TaskSpec(_Section):
    """What happened to the image."""

    name: TaskName = "sr"
    scale: Annotated[int, Field(ge=1, le=64)] = 1
    """Output pixels per input pixel, along each axis."""
    sigma: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the measurement's noise, in `sigma_unit`."""
    sigma_unit: SigmaUnit = "levels"
    """levels: grey levels of the input's dtype; fraction: of the dtype's full range."""


class SamplingSpec(_Section):
    """How the reverse diffusion runs (method.md sections 1, 2, 7)."""

    intent: Literal["faithful", "detail", "paper"] | None = None
    form: Literal["posterior", "eps"] | None = None
    eta: Annotated[float, Field(ge=0, le=1)] | Literal["ddpm"] | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    start: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """First base timestep of a warm start; None or the last one: from pure noise."""
    guided_start: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The same for levels that have a coarser level to start from."""
    guided_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Steps of levels that have a coarser level: the guide leaves less to decide."""
    spacing: Literal["uniform", "log_sigma"] | None = None
    inverse: Literal["replicate", "smooth"] | None = None
    """A+ of average pooling: replication (Moore-Penrose, the paper's) or a smooth one (kernels.smooth_pool)."""
    init: Literal["bicubic", "none"] | None = None
    noise_scale: Annotated[float, Field(ge=0, le=1)] | None = None
    travel: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Time travel: length, repeat."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class TilingSpec(_Section):
    """Tile geometry (method.md sections 5 and 6)."""

    tile: Annotated[int, Field(ge=8, le=4096)] | None = None
    stride: Annotated[int, Field(ge=1, le=4096)] | None = None
    margin: Annotated[int, Field(ge=0, le=2048)] | None = None
    """Outer pixels of a tile that it does not commit (orchestrator.grid); 0 is the paper's geometry."""
    levels: Annotated[int, Field(ge=1, le=24)] | None = None
    order: Literal["raster", "centre", "bridge", "colour"] | None = None
    block: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Order bridge: tiles along the side of a block."""


class RunSpec(_Section):
    """Where and how it runs. None of this changes a pixel."""

    executor: Literal["ray", "serial"] = "ray"
    workers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    address: str | None = None
    keep_work: bool = False


class JobSpec(_Section):
    """One restoration job."""

    input: InputSpec = InputSpec()
    output: str | None = None
    denoiser: str = "builtin"
    task: TaskSpec = TaskSpec()
    sampling: SamplingSpec = SamplingSpec()
    tiling: TilingSpec = TilingSpec()
    run: RunSpec = RunSpec()

    def to_toml(self) -> str:
        """Return the specification as TOML; unset fields are left out."""
        return str(tomli_w.dumps(self.model_dump(mode="json", exclude_none=True)))

    @classmethod
    def from_toml(cls, text: str, where: str = "the job file") -> JobSpec:
        """Read a specification from TOML text; raises PlanError on one line."""
        try:
            return cls.build(tomllib.loads(text), where)
        except tomllib.TOMLDecodeError as err:
            raise PlanError(f"{where} is not valid TOML: {err}") from None

    @classmethod
    def load(cls, path: Path) -> JobSpec:
        """Read a specification from a TOML file; raises PlanError on one line."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as err:
            raise PlanError(f"cannot read {path}: {err.strerror}") from None
        except UnicodeDecodeError:
            raise PlanError(f"{path} is not valid TOML: it is not UTF-8 text") from None
        return cls.from_toml(text, str(path))

    @classmethod
    def build(cls, values: dict[str, Any], where: str = "the options") -> JobSpec:
        """Validate nested plain values; raises PlanError that names field, value and limit (unknown keys: the nearest)."""
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise PlanError(f"{where}: {_first_problem(err)}") from None


def _first_problem(err: ValidationError) -> str:
    problem = err.errors()[0]
    place = [str(part) for part in problem["loc"] if not str(part).startswith(("constrained", "function", "literal"))]
    name = ".".join(place)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _field_names(place[:-1]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(_field_names(place[:-1]))}"
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
