"""BatchCall: what a worker is asked to do, packed into bytes: Ray sends them as they are, without
taking them apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple, Self

from orchestrator.tiling.grid import TileKey

_FIELDS = len(TileKey._fields)


class BatchCall(NamedTuple):
    """A batch of tiles for one worker."""

    slot: int
    """Which of the workers that share the process is meant."""
    run: int
    """Number of the run, as `open` was given."""
    keys: tuple[TileKey, ...]

    def packed(self) -> bytes:
        """Return it as bytes: numbers of 64 bits, little endian."""
        numbers = [self.slot, self.run, *chain.from_iterable(self.keys)]
        return struct.pack(f"<{len(numbers)}q", *numbers)

    @classmethod
    def of(cls, packed: bytes) -> Self:
        """Return what was packed."""
        slot, run, *numbers = struct.unpack(f"<{len(packed) // 8}q", packed)
        return cls(slot, run, tuple(_keys(numbers)))


def _keys(numbers: list[int]) -> Iterable[TileKey]:
    return (TileKey(*numbers[first : first + _FIELDS]) for first in range(0, len(numbers), _FIELDS))
