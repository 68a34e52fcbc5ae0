"""What holds for a whole batch, apart from what its images have for themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.batches.batch_manifest import SHARED
from cluster.options import options as opt
from orchestrator.run.many_images import WINDOW
from storage.byte_source import located


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """What holds for a whole batch."""

    window: int = WINDOW
    """Images that are worked on at a time."""
    verify: bool = True
    shared: dict[str, Any] = field(default_factory=dict)
    """Options of where and how it runs, by field."""

    @classmethod
    def kept(cls, options: Mapping[str, Any]) -> BatchSettings:
        """Return those that a batch's folder keeps, without options that there are no longer."""
        shared = {
            name: value for name, value in options.get("shared", {}).items() if name in SHARED
        }
        return cls(**{**options, "shared": shared})

    def but(self, **given: Any) -> BatchSettings:
        """Return them with some shared options given anew."""
        return replace(self, shared={**self.shared, **given})


def sort_out(values: Mapping[str, Any]) -> tuple[dict[str, Any], BatchSettings]:
    """Return the options that images have for themselves, and those of the whole batch; values: the
    command's parameters.
    """
    given = opt.under_own_names(
        {
            name: value
            for name, value in values.items()
            if name in opt.OPTIONS and value not in (None, [], ())
        }
    )
    shared = {name: given.pop(name) for name in SHARED if name in given}
    settings = BatchSettings(window=values["window"], verify=values["verify"], shared=shared)
    if values["job"] is not None:
        given["job"] = located(values["job"])
    return given, settings
