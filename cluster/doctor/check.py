"""One finding of `doctor`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    verdict: Literal["ok", "warn", "fail"]
    name: str
    text: str
    """What was found; for warn and fail also what to do."""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)
