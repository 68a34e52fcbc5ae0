"""Report: what a worker says of a finished batch. Small, it travels through Ray; loads nothing."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.tiling.grid import TileKey

# Seconds, evaluations, tiles filled, limit (0: none), substituted or not; then the trouble in
# UTF-8.
_HEAD = struct.Struct("<dqqq?")


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
    ended: float = field(default_factory=time.time, compare=False)
    """When whoever holds the report learned that the batch was over, s since 1970: it becomes
    durable later.
    """

    def packed(self) -> bytes:
        """Return it without the keys, which the driver knows, as bytes: Ray sends them without
        pickling.
        """
        head = _HEAD.pack(self.seconds, self.nfe, self.filled, self.limit or 0, self.substituted)
        return head + self.trouble.encode(errors="backslashreplace")

    @classmethod
    def of(cls, keys: Sequence[TileKey], packed: bytes) -> Report:
        """Return the report of a batch from its packed form."""
        seconds, nfe, filled, limit, substituted = _HEAD.unpack_from(packed)
        return cls(
            tuple(keys),
            seconds,
            nfe,
            filled,
            limit or None,
            substituted,
            packed[_HEAD.size :].decode(),
        )
