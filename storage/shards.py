"""One stored object of a published level: many zstd chunks and an index, made whole in memory and written at once.

Source: sharding-indexed codec 1.0. The chunks lie in C order without gaps, so the same pixels give the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from storage import chunks, zarr_meta
from storage.box import Box
from storage.errors import DamagedError

if TYPE_CHECKING:
    import mmap
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    Data = bytes | memoryview | mmap.mmap

DTYPES = ("uint8", "uint16", "int16", "float32")
"""What a published image can hold."""

# An index entry of 2^64 - 1 says that a chunk is not stored: here, one that lies wholly beyond the image's edge.
_ABSENT = np.uint64(2**64 - 1)
_CRC_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The geometry of one sharded array (C, H, W) with chunks (1, chunk, chunk)."""

    shape: tuple[int, int, int]
    """(C, H, W), px."""
    dtype: str
    """One of DTYPES."""
    chunk: int
    """Side of a chunk, px."""
    shard: tuple[int, int]
    """Height and width of a shard, px: multiples of the chunk, no larger than the image needs."""

    @classmethod
    def fit(cls, *, shape: tuple[int, int, int], dtype: str, chunk: int, shard: int) -> Level:
        """Return the level with shards of `shard` px, clamped to the chunks that the image needs."""
        needed = (-(-side // chunk) * chunk for side in shape[1:])
        height, width = (min(shard, side) for side in needed)
        return cls(shape=shape, dtype=dtype, chunk=chunk, shard=(height, width))

    @property
    def grid(self) -> tuple[int, int]:
        """Return the number of shards (down, across)."""
        return -(-self.shape[1] // self.shard[0]), -(-self.shape[2] // self.shard[1])

    def box(self, row: int, col: int) -> Box:
        """Return the pixels of a shard, clipped to the image."""
        height, width = self.shard
        return Box(row * height, col * width, (row + 1) * height, (col + 1) * width).clip(*self.shape[1:])

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of every shard."""
        yield from itertools.product(*map(range, self.grid))

    def metadata(self) -> dict[str, Any]:
        """Return the zarr metadata of the array."""
        return zarr_meta.array_metadata(
            shape=self.shape,
            dtype=self.dtype,
            chunk=(self.shape[0], *self.shard),
            codecs=[zarr_meta.sharding_codec(self.dtype, (1, self.chunk, self.chunk))],
        )

    def halved(self, shard: int) -> Level:
        """Return the next level of the pyramid, each side half as long, rounded up."""
        channels, height, width = self.shape
        shape = (channels, -(-height // 2), -(-width // 2))
        return Level.fit(shape=shape, dtype=self.dtype, chunk=self.chunk, shard=shard)


def encode(level: Level, pixels: NDArray[Any], pool: Executor) -> list[bytes]:
    """Return the bytes of a shard, in parts. pixels: (C, h, w), the shard's box clipped to the image."""
    down, across = (side // level.chunk for side in level.shard)
    index = np.full((level.shape[0], down, across, 2), _ABSENT, "<u8")
    present = list(_present(level, pixels))
    parts = list(
        pool.map(lambda where: chunks.encode(pixels[_slices(level, *where)], (level.chunk, level.chunk)), present)
    )
    offset = 0
    for where, part in zip(present, parts, strict=True):
        index[where] = offset, len(part)
        offset += len(part)
    table = index.tobytes()
    return [*parts, table, google_crc32c.value(table).to_bytes(_CRC_BYTES, "little")]


def decode(level: Level, data: Data, window: Box, name: str, channel: int | None = None) -> NDArray[Any]:
    """Return (C, h, w) of a window of the image that lies in one shard, decoding only the chunks under it.

    data: all bytes of the shard, a memory map for example. channel: only this one, (1, h, w). Raises DamagedError
    naming the object.
    """
    corner = _corner(level, window)
    part = window.shift(-corner[0], -corner[1])
    index = _index(level, data, name)
    channels = range(level.shape[0]) if channel is None else range(channel, channel + 1)
    out = np.empty((len(channels), *window.shape), np.dtype(level.dtype).newbyteorder("<"))
    side = level.chunk
    scratch = np.empty((side, side), out.dtype)
    tiles = part.cover(side)
    for band, row, col in itertools.product(channels, range(tiles.y0, tiles.y1), range(tiles.x0, tiles.x1)):
        start, length = (int(v) for v in index[band, row, col])
        inside = Box(row, col, row + 1, col + 1).scale(side).intersect(part)
        target = out[(band - channels.start, *inside.shift(-part.y0, -part.x0).slices())]
        whole = target.shape == scratch.shape and target.flags.c_contiguous
        try:
            chunks.decode(data[start : start + length], target if whole else scratch)
        except ValueError as error:
            raise DamagedError(f"{name}: chunk {(band, row, col)} is damaged ({error}); publish again") from error
        if not whole:
            target[...] = scratch[inside.shift(-row * side, -col * side).slices()]
    return out.astype(level.dtype, copy=False)


def _corner(level: Level, window: Box) -> tuple[int, int]:
    """Return the first pixel (y, x) of the shard that holds a window."""
    height, width = level.shard
    return window.y0 // height * height, window.x0 // width * width


def _index(level: Level, data: Data, name: str) -> NDArray[np.uint64]:
    """Return (offset, length) of every chunk, (C, down, across, 2)."""
    down, across = (side // level.chunk for side in level.shard)
    size = level.shape[0] * down * across * 16
    table = bytes(data[-size - _CRC_BYTES : -_CRC_BYTES])
    if len(table) != size or google_crc32c.value(table) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise DamagedError(f"{name}: the index of the shard fails its checksum; publish again")
    return np.frombuffer(table, "<u8").reshape(level.shape[0], down, across, 2)


def _present(level: Level, pixels: NDArray[Any]) -> Iterator[tuple[int, int, int]]:
    """Yield (channel, row, column) of the chunks that hold any pixel of the image."""
    channels, height, width = pixels.shape
    return itertools.product(range(channels), range(-(-height // level.chunk)), range(-(-width // level.chunk)))


def _slices(level: Level, channel: int, row: int, col: int) -> tuple[int, slice, slice]:
    """Return the place of a chunk inside its shard; an array's edge clips it."""
    side = level.chunk
    return channel, slice(row * side, (row + 1) * side), slice(col * side, (col + 1) * side)
