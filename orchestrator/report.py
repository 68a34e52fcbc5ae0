"""Report: what a worker says of a finished batch. Small, it travels through Ray; loads nothing."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.grid import TileKey


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of a finished batch: small, it travels through Ray."""

    keys: tuple[TileKey, ...]
    seconds: float
    nfe: int
    filled: int = 0
    """Tiles that needed no network, because what was known determined them."""
