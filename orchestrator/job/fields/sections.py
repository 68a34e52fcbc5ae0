"""The sections of a job that tasks look at: the input, and what happened to it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FULL = "full"
"""How a job names the range of the dtype."""
NAN = "nan"
"""How a job names samples that are no number: JSON and comparisons have no place for NaN itself."""
Side = Annotated[int, Field(ge=0, le=1_000_000)]
SigmaUnit = Literal["levels", "fraction"]
Ends = tuple[float, float]
"""Black and white, stored values."""
Range = Ends | tuple[Ends, ...]
"""Black and white of all bands, or of each."""
AUTO = "auto"
"""What a user writes for a noise level or a range that is to be found from the image's samples."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(Section):
    """The measurement: an image file, and for inpainting a mask file (non-zero = known) or a value
    for unknown.
    """

    path: str | None = None
    mask: str | None = None
    mask_holes: Literal["black", "white"] | None = None
    """Which end of the mask is unknown; None: black."""
    mask_white: Annotated[float, Field(gt=0)] | None = None
    """Value of white in the mask, read from it."""
    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """Height and width in px: read from the file; given by the user where there is no file
    (generate, plan).
    """
    crop: tuple[int, int, int, int] | None = None
    """Part of the file that is the measurement, y0, x0, y1, x1 in px; set for regions."""
    bands: Annotated[int, Field(gt=0)] | None = None
    """Number of bands, read from the file."""
    dtype: str | None = None
    """Stored dtype, read from the file."""
    values: Ends | tuple[Ends, ...] | Literal["auto", "full"] | None = None
    """Stored values of black and white, of all bands or of each; auto: as the file declares or its
    samples say; full: the limits of the dtype.

    None: full for 8 bit, else auto. A resolved job says numbers or full."""
    values_from: str | None = None
    """What the values were taken from, in words; resolved."""
    grey_as: Literal["replicate", "mean"] | None = None
    """How one band meets a network of several channels (orchestrator.job.bands)."""
    bands_as: Literal["groups", "single"] | None = None
    """How bands of another number than the network's channels meet it."""
    nodata: float | Literal["nan"] | None = None
    """Samples of this value are unknown, band by band (inpaint); "nan": those that are no number.
    """
    keep_nodata: float | None = None
    """Samples with this value are none: they stay so in the output and are not restored. Read from
    the file.
    """

    keep_mask: Literal["mask", "alpha", "associated"] | None = None
    """The file says beside its samples which of them are none, and the output says it so again.
    Read from the file.
    """
    valid_file: str | None = None
    """The mask file beside the input (NAME.msk)."""
    positive: bool = False
    """Samples at or below 0 are none: resolved for noise that is taken off logarithms."""

    @field_validator("nodata", mode="before")
    @classmethod
    def _named_nan(cls, value: object) -> object:
        if isinstance(value, float) and math.isnan(value):
            return NAN
        return value.lower() if isinstance(value, str) else value

    channel: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Bands of the file to restore, counted from 0; None: all but an alpha channel."""
    z: Annotated[int, Field(ge=0)] | None = None
    """Plane of a stack, counted from 0."""
    t: Annotated[int, Field(ge=0)] | None = None
    """Time point or page, counted from 0."""
    max_pixels: Annotated[int, Field(gt=0)] | None = None
    """Largest size that the file may declare, px."""
    pad: tuple[Side, Side, Side, Side] | None = None
    """Pixels to invent above, right of, below and left of the input (outpaint)."""
    fine_mask: bool = False
    """The mask has the output's size, not the input's: resolved from the files."""
    extent: tuple[int, int] | None = None
    """Height and width of the output where they are not the input's times the scale: read from a
    `cs` measurement.
    """


class TaskFields(Section):
    """What happened to the image; `orchestrator.job.spec.TaskSpec` knows the names."""

    name: str = "sr"
    scale: Annotated[int, Field(ge=1, le=64)] = 1
    """Output pixels per input pixel, along each axis."""
    sigma: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the measurement's noise, in `sigma_unit`."""
    sigma_unit: SigmaUnit = "levels"
    """levels: stored grey levels; fraction: of the range from black to white."""
    noise: str | None = None
    """Noise that depends on the brightness: poisson:GAIN[,READ[,OFFSET]], poisson:auto,
    speckle:LOOKS[,amplitude] (orchestrator.job.fields.noise_option); None: one deviation, `sigma`.
    """
    noise_from: Literal["auto", "estimated"] | None = None
    """auto: the noise level is to be estimated from the image; estimated: it was. None: given."""
    skip_flat: Annotated[float, Field(ge=0)] | None = None
    """A tile whose measurement varies by no more than this is filled without the network, grey
    levels.
    """
    kernel: Literal["average", "bicubic"] = "average"
    """How `sr` was reduced: averages of cells, or antialiased bicubic decimation."""
    blur: str | None = None
    """uniform:TAPS, gaussian:SIGMA[:TAPS], anisotropic:SIGMA_Y,SIGMA_X[:TAPS] or a kernel's file.
    """
    weights: tuple[tuple[float, ...], ...] | None = None
    """The blur's kernel, resolved, so that a run no longer needs the file."""
    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the coefficients that compressed sensing kept; read from the measurement."""
    block: Annotated[int, Field(ge=2, le=256)] = 32
    """Side of a compressed-sensing block, px."""
    cs_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the kept coefficients and signs; read from the measurement."""
    operator: str | None = None
    """Your own operator, package.module:Class."""
    operator_args: dict[str, str] = {}
    """Keyword arguments of its constructor."""
    alignment: Annotated[int, Field(ge=1)] | None = None
    """Pixels that its windows must be multiples of; asked of it."""

    @model_validator(mode="before")
    @classmethod
    def _level_to_be_estimated(cls, values: Any) -> Any:
        """Read `sigma = "auto"`: a level that is not known yet."""
        if not isinstance(values, dict) or values.get("sigma") != AUTO:
            return values
        return {**values, "sigma": 0.0, "noise_from": AUTO}

    @property
    def noisy(self) -> bool:
        """Whether the measurement has noise, of a level that is known or to be estimated."""
        return self.sigma > 0 or self.noise is not None or self.noise_from == AUTO
