"""What the headers of a job's files say, read once and carried by the plan."""

from __future__ import annotations

from dataclasses import dataclass

from storage.image import ImageInfo


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

    def __str__(self) -> str:
        if self.holes is None:
            return f"about {self.known:.1%} of the mask is known"
        return f"{self.known:.1%} of the mask is known, holes: {self.holes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFacts:
    """Descriptions of the files that a job names; None where it names none, or nobody looked."""

    image: ImageInfo | None = None
    """Of the measurement; None for one that is no image (cs)."""
    mask: ImageInfo | None = None
    survey: MaskSurvey | None = None
    """What the mask says; None for a run that goes on, which has its reading in the job."""

    @property
    def staging_bytes(self) -> int:
        """Return what copies of the files that cannot be read by windows take at most, bytes."""
        files = (self.image, self.mask)
        return sum(info.nbytes for info in files if info is not None and not info.lazy)
