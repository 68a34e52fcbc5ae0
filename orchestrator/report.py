"""Report: what a worker says of a finished batch. Small, it travels through Ray; loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.grid import TileKey


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of a finished batch: small, it travels through Ray."""

    keys: tuple[TileKey, ...]
    seconds: float
    nfe: int
    filled: int = 0
    """Tiles that needed no network, because what was known determined them."""
    limit: int | None = None
    """Tiles that fit into the worker's memory at a time, once it has run out of it."""
    substituted: bool = False
    """The tiles could not be restored, and hold what stands in for them."""
    trouble: str = ""
    """How the store failed before it worked again; empty when it did not."""

    def plain(self) -> list[Any]:
        """Return it without the keys, which the driver knows, as Ray sends it without pickling."""
        return [self.seconds, self.nfe, self.filled, self.limit, self.substituted, self.trouble]

    @classmethod
    def of(cls, keys: Sequence[TileKey], plain: list[Any]) -> Report:
        """Return the report of a batch from its plain form."""
        return cls(tuple(keys), *plain)
