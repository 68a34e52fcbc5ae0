"""What the headers of a job's files say, read once and carried by the plan."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.job.fields.sections import Range
from storage.image import ImageInfo

NEXT_TO_NONE = 1e-9
"""Levels below this come from the rounding of floats."""
EVEN = 1.5
"""Bands whose noise differs by no more than this factor have one level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSurvey:
    """What a look at a mask found."""

    white: float
    """Value of white."""
    known: float
    """Share of the samples that are known."""
    between: float
    """Share that is neither black nor white."""
    holes: int | None
    """Connected unknown parts; None where only spread windows were looked at."""
    scatter: float | None = None
    """Share of known pixels beside the known ones at the edges of the holes
    (kernels.known_nearby.scattered_share).
    """

    def __str__(self) -> str:
        if self.holes is None:
            return f"about {self.known:.1%} of the mask is known"
        return f"{self.known:.1%} of the mask is known, holes: {self.holes}"


GIVEN = "given"
"""What a range was taken from that the user gave."""


@dataclass(frozen=True, slots=True)
class RangeSurvey:
    """What a look at the samples says of black and white."""

    values: Range | None
    """Black and white to restore with, of all bands or of each; None: the limits of the dtype."""
    source: str
    """What they were taken from, in words."""
    warning: str | None = None
    """Why a range that the user gave is no good one, and which would be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSurvey:
    """What a look at an image says of its noise, stored values."""

    levels: tuple[float | None, ...] = ()
    """Standard deviation in each band; None where too few samples allow an estimate."""
    model: str | None = None
    """What was fitted where it depends on the brightness, as --noise names it."""
    asked: bool = True
    """Whether the job goes by it; else it was looked at to check what the user gave."""
    warning: str | None = None
    """Why a level that the user gave is not that of the image."""

    @property
    def largest(self) -> float | None:
        """The level of the noisiest band; None where no band allows an estimate."""
        return max((level for level in self.levels if level is not None), default=None)

    @property
    def uneven(self) -> bool:
        """Whether the bands differ by more than EVEN times."""
        known = [level for level in self.levels if level is not None]
        return bool(known) and max(known) > EVEN * min(known)

    def used(self) -> str:
        """Say what a job that was to estimate its noise goes by."""
        if self.model is not None:
            return f"noise: {self.model}, fitted to how its variance grows with the brightness"
        if not self.uneven:
            return f"noise: {self}, estimated"
        return (
            f"noise: {self}, estimated; the largest is used, --channel restores bands that differ "
            "one by one"
        )

    def __str__(self) -> str:
        if self.largest is None:
            return "cannot be told: too few samples that are neither unknown nor black nor white"
        if self.largest < NEXT_TO_NONE:
            return "none to be seen"
        if not self.uneven:
            return (
                f"about {self.largest:.3g} (standard deviation, stored values; fine texture counts)"
            )
        each = ", ".join("unknown" if level is None else f"{level:.3g}" for level in self.levels)
        return f"differs from band to band: {each} (standard deviations, stored values)"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFacts:
    """Descriptions of the files that a job names; None where it names none, or nobody looked."""

    image: ImageInfo | None = None
    """Of the measurement; None for one that is no image (cs)."""
    mask: ImageInfo | None = None
    survey: MaskSurvey | None = None
    """What the mask says; None for a run that goes on, which has its reading in the job."""
    scatter: float | None = None
    """The same of what is to be filled, told by a mask or by a value; None where nobody looked."""
    noise: NoiseSurvey | None = None
    """What the pixels say of their noise; None where nobody asked."""

    @property
    def findings(self) -> tuple[str, ...]:
        """What a look at the pixels found that the job goes by, a line each."""
        mask = () if self.survey is None else (str(self.survey),)
        noise = () if self.noise is None or not self.noise.asked else (self.noise.used(),)
        return (*mask, *noise)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why what the user gave does not suit the pixels, a line each."""
        looks = (self.range, self.noise)
        return tuple(look.warning for look in looks if look is not None and look.warning)

    range: RangeSurvey | None = None
    """What the samples say of black and white; None where nobody looked."""

    @property
    def staging_bytes(self) -> int:
        """Return what copies of the files that cannot be read by windows take at most, bytes."""
        files = (self.image, self.mask)
        return sum(info.nbytes for info in files if info is not None and not info.lazy)
