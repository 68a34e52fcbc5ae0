"""A share of a batch's images: every N-th, for runs that divide a batch among themselves."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from orchestrator.errors import PlanError

T = TypeVar("T")


class Share(NamedTuple):
    """The I-th of N shares."""

    number: int
    """From 1."""
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def suffix(self) -> str:
        """What the names of its own files end with."""
        return f"-{self.number}-of-{self.of}"


def share_of(entries: Sequence[T], share: Share | tuple[int, int] | None) -> list[T]:
    """Return every N-th image, from the I-th on; all without a share."""
    if share is None:
        return list(entries)
    number, count = share
    return list(entries[number - 1 :: count])


def parse_share(text: str) -> Share:
    """Read I/N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise PlanError(
            f"--share {text!r} is no share; give I/N with I from 1 to N, for example 1/8"
        )
    return Share(int(match[1]), int(match[2]))


def array_share(environment: Mapping[str, str] = os.environ) -> Share:
    """Return the share of this task of a SLURM array; raises PlanError outside one, or when its
    numbers leave gaps.
    """
    try:
        task, count, first, last = (
            int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "COUNT", "MIN", "MAX")
        )
        step = int(environment.get("SLURM_ARRAY_TASK_STEP") or 1)
    except (KeyError, ValueError):
        raise PlanError(
            "--array takes its share from SLURM_ARRAY_TASK_ID and _COUNT, which are not set: "
            "submit with `sbatch --array=1-N`, or give --share I/N"
        ) from None
    if (last - first) // step + 1 != count:
        raise PlanError(
            f"--array needs an array without gaps, not {count} tasks from {first} to {last}; "
            "give --share I/N"
        )
    return Share((task - first) // step + 1, count)
