"""InflightBatch: the tiles that a worker has under way. No threads, no files: tiles in, one step at
a time, tiles out.

Tiles join at any boundary between two steps; those of one level share a batch, wherever they stand.
When memory runs out the limit is halved and the step repeated: the bytes are the same, because a
tile's result does not depend on its batch. A tile that does not fit alone has failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.sampling.inflight import admit, out_of_memory, release_memory, retire
from kernels.sampling.sampler import SamplerState
from orchestrator.arrays import Array
from orchestrator.measurement.tile_input import TileInput
from orchestrator.tiling.grid import TileKey

if TYPE_CHECKING:
    from torch import Tensor

    from orchestrator.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class Ended:
    """A tile that has left: its pixels, or what went wrong."""

    key: TileKey
    owned: Array | None = None
    error: Exception | None = None

    def pixels(self) -> Array:
        """Return the pixels of the owned box; raises what went wrong."""
        if self.owned is None:
            assert self.error is not None, "a tile ends with pixels or with an error"
            raise self.error
        return self.owned


class InflightBatch:
    """Tiles under way on one device; true while there are any."""

    def __init__(self, worker: Worker, room: int | None = None) -> None:
        """room: tiles that may have begun at a time, if not all."""
        self._worker = worker
        self._room = room
        self._groups = len(worker.plan.bands.groups)
        self._running: dict[int, SamplerState] = {}
        self._waiting: dict[TileKey, TileInput] = {}

    def __bool__(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def limit(self) -> int | None:
        """Tiles that fit at a time; None while everything has."""
        return self._worker.fitting

    @property
    def _rows(self) -> int:
        return sum(len(state.keys) for state in self._running.values())

    def add(self, tiles: dict[TileKey, TileInput]) -> None:
        """Let tiles join at the next step, or when there is room."""
        self._waiting |= tiles

    def drop(self, keys: Collection[TileKey]) -> None:
        """Take tiles away, whatever they are doing."""
        for key in keys:
            self._waiting.pop(key, None)
        for level, state in list(self._running.items()):
            kept = [i for i, key in enumerate(state.keys) if key not in keys]
            if len(kept) < len(state.keys):
                del self._running[level]
                if kept:
                    self._running[level] = state.select(kept)

    def step(self) -> list[Ended]:
        """Admit who waits, take every tile one step, coarsest level first, and return the tiles
        that have ended.
        """
        ended = list(self._admit())
        for level in sorted(self._running, reverse=True):
            ended += self._advance(level)
        return ended

    def _admit(self) -> Iterator[Ended]:
        while keys := self._next():
            error: Exception | None = None
            try:
                self._begin(keys)
            except Exception as err:
                crowded = out_of_memory(err) and (self._running or len(keys) > 1)
                error = None if crowded else err
                if crowded:
                    self._shrink(len(keys))
                    continue
            for key in keys:
                del self._waiting[key]
                if error is not None:
                    yield Ended(key, error=error)

    def _begin(self, keys: list[TileKey]) -> None:
        level = keys[0].level
        newcomers = self._worker.begin({key: self._waiting[key] for key in keys})
        self._running[level] = admit(self._running.get(level), newcomers)

    def _next(self) -> list[TileKey]:
        """Return the waiting tiles of one level that there is room for."""
        if not self._waiting:
            return []
        first = next(iter(self._waiting)).level
        keys = [key for key in self._waiting if key.level == first]
        limits = [limit for limit in (self.limit, self._room) if limit is not None]
        if not limits:
            return keys
        room = min(limits) - self._rows // self._groups
        return keys[: max(room, 0 if self._running else 1)]

    def _shrink(self, tiles: int) -> None:
        """Admit no more than are under way, or half of those that did not fit."""
        self._worker.limit = self._rows or max(tiles * self._groups // 2, 1)
        release_memory(self._worker.device)

    def _advance(self, level: int) -> list[Ended]:
        state = self._running.pop(level)
        rows = len(state.keys)
        most = self._worker.limit
        try:
            state, fitted = self._worker.advance(level, state, most or rows)
            if fitted < min(most or rows, rows):
                self._worker.limit = fitted
            over, going = retire(state, self._worker.config(level))
            results = {} if over is None else self._worker.results(over)
        except Exception as err:  # whatever the network raises: the driver is told
            return [Ended(key, error=err) for key in _tiles(state)]
        if going is not None:
            self._running[level] = going
        return [self._ended(key, pictures) for key, pictures in results.items()]

    def _ended(self, key: TileKey, pictures: Tensor) -> Ended:
        try:
            return Ended(key, self._worker.crop(key, pictures))
        except RuntimeError as err:
            return Ended(key, error=err)


def _tiles(state: SamplerState) -> Sequence[TileKey]:
    return list(dict.fromkeys(TileKey(*key) for key in state.keys))
