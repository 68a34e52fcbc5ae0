"""One stored object of a published level: many zstd chunks and an index, written at once.

Source: sharding-indexed codec 1.0. The chunks lie in C order without gaps, so the same pixels give
the same bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from storage.box import Box
from storage.errors import DamagedError
from storage.zarr_format import zarr_json
from storage.zarr_format.chunk import decode_chunk, encode_chunk

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

DTYPES = ("uint8", "uint16", "int16", "float32")
"""What a published image can hold."""

# An index entry of 2^64 - 1 says that a chunk is not stored: here, one that lies wholly beyond the
# image's edge.
_ABSENT = np.uint64(2**64 - 1)
_INDEX_NUMBER_BYTES = 8
_CRC_BYTES = 4

_ChunkPlace = tuple[int, int, int]
"""(channel, row, column) of a chunk inside its shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidLevel:
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
    def fit(
        cls,
        *,
        shape: tuple[int, int, int],
        dtype: str,
        chunk: int,
        shard: int,
    ) -> PyramidLevel:
        """Return the level with shards of `shard` px, clamped to the chunks of the image."""
        _, height, width = shape
        whole_height = -(-height // chunk) * chunk
        whole_width = -(-width // chunk) * chunk
        clamped = (min(shard, whole_height), min(shard, whole_width))
        return cls(
            shape=shape,
            dtype=dtype,
            chunk=chunk,
            shard=clamped,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Return the number of shards (down, across)."""
        _, height, width = self.shape
        tall, wide = self.shard
        down = -(-height // tall)
        across = -(-width // wide)
        return down, across

    @property
    def chunks(self) -> tuple[int, int]:
        """Return the number of chunks of a shard (down, across)."""
        height, width = self.shard
        return height // self.chunk, width // self.chunk

    def box(self, row: int, col: int) -> Box:
        """Return the pixels of a shard, clipped to the image."""
        _, height, width = self.shape
        tall, wide = self.shard
        y0 = row * tall
        x0 = col * wide
        return Box(y0, x0, y0 + tall, x0 + wide).clip(height, width)

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of every shard."""
        down, across = self.grid
        yield from itertools.product(range(down), range(across))

    def metadata(self) -> dict[str, Any]:
        """Return the zarr metadata of the array."""
        channels = self.shape[0]
        inner_chunk = (1, self.chunk, self.chunk)
        codec = zarr_json.sharding_codec(self.dtype, inner_chunk)
        return zarr_json.array_metadata(
            shape=self.shape,
            dtype=self.dtype,
            chunk=(channels, *self.shard),
            codecs=[codec],
        )

    def halved(self, shard: int) -> PyramidLevel:
        """Return the next level of the pyramid, each side half as long, rounded up."""
        channels, height, width = self.shape
        half_height = -(-height // 2)
        half_width = -(-width // 2)
        return PyramidLevel.fit(
            shape=(channels, half_height, half_width),
            dtype=self.dtype,
            chunk=self.chunk,
            shard=shard,
        )


def encode_shard(
    level: PyramidLevel,
    pixels: NDArray[Any],
    pool: Executor,
) -> list[bytes]:
    """Return the bytes of a shard, in parts, its chunks compressed by the pool.

    pixels: (C, h, w), the shard's box clipped to the image.
    """

    def encoded(place: _ChunkPlace) -> bytes:
        part = pixels[_slices(level, place)]
        return encode_chunk(part, (level.chunk, level.chunk))

    stored_places = list(_places_inside(level, pixels))
    parts = list(pool.map(encoded, stored_places))

    channels = level.shape[0]
    index = np.full((channels, *level.chunks, 2), _ABSENT, "<u8")
    offset = 0
    for place, part in zip(stored_places, parts, strict=True):
        index[place] = offset, len(part)
        offset += len(part)

    table = index.tobytes()
    checksum = google_crc32c.value(table).to_bytes(_CRC_BYTES, "little")
    return [*parts, table, checksum]


class _Room(threading.local):
    """Memory of every thread for the stored bytes of a chunk.

    Using it again costs less than the page faults of a map.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(
        self,
        fd: int,
        start: int,
        length: int,
    ) -> memoryview:
        """Return what lies there in a file; it holds until the next read of this thread."""
        if len(self._bytes) < length:
            self._bytes = bytearray(length)
        room = memoryview(self._bytes)[:length]
        count = os.preadv(fd, [room], start)
        return room[:count]


_ROOM = _Room()


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard in its file, whose chunks are read and decoded when they are asked for.

    Safe to use in several threads.
    """

    level: PyramidLevel
    path: Path
    fd: int
    size: int
    """Of the file, bytes."""
    index: NDArray[np.uint64]
    """(C, down, across, 2): first byte and length of every chunk."""

    @classmethod
    @contextlib.contextmanager
    def open(cls, level: PyramidLevel, path: Path) -> Iterator[Shard]:
        """Read the index; raises DamagedError when it is missing or fails its checksum."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DamagedError(f"{path}: missing from the array; restore the image again") from None
        try:
            size = os.fstat(fd).st_size
            index = _read_index(level, path, fd, size)
            yield cls(level, path, fd, size, index)
        finally:
            os.close(fd)

    def read(self, window: Box) -> NDArray[Any]:
        """Return (C, h, w) of a window of the image that lies in this shard.

        Only the chunks under it are decoded. Raises DamagedError naming the chunk.
        """
        channels = self.level.shape[0]
        out = np.empty((channels, *window.shape), self.level.dtype)
        for channel, band in enumerate(out):
            self.fill(band, window, channel)
        return out

    def fill(
        self,
        out: NDArray[Any],
        window: Box,
        channel: int,
    ) -> None:
        """Decode one band of a window into (h, w) of the level's dtype; see `read`."""
        side = self.level.chunk
        down, across = self.level.chunks
        rows = range(window.y0 // side, -(-window.y1 // side))
        cols = range(window.x0 // side, -(-window.x1 // side))
        for row, col in itertools.product(rows, cols):
            chunk_box = Box(row, col, row + 1, col + 1).scale(side)
            part = chunk_box.intersect(window)
            target = out[part.shift(-window.y0, -window.x0).slices()]
            in_shard = (channel, row % down, col % across)
            if self._takes_whole_chunk(target):
                self._decode(in_shard, target)
                continue
            chunk = np.empty((side, side), self._stored_dtype)
            self._decode(in_shard, chunk)
            target[...] = chunk[part.shift(-chunk_box.y0, -chunk_box.x0).slices()]

    @property
    def _stored_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.level.dtype).newbyteorder("<")

    def _takes_whole_chunk(self, target: NDArray[Any]) -> bool:
        """Tell whether a chunk can be decoded into an array without a copy in between."""
        side = self.level.chunk
        return (
            target.shape == (side, side)
            and target.dtype == self._stored_dtype
            and target.flags.c_contiguous
        )

    def _decode(self, place: _ChunkPlace, out: NDArray[Any]) -> None:
        start, length = self.index[place].tolist()
        in_file = start + length <= self.size
        try:
            stored = _ROOM.read(self.fd, start, length) if in_file else b""
            decode_chunk(stored, out)
        except ValueError as error:
            raise DamagedError(
                f"{self.path}: chunk {place} is damaged ({error}); publish again"
            ) from error


def _read_index(
    level: PyramidLevel,
    path: Path,
    fd: int,
    size: int,
) -> NDArray[np.uint64]:
    """Return (first byte, length) of every chunk, (C, down, across, 2)."""
    channels = level.shape[0]
    down, across = level.chunks
    length = channels * down * across * 2 * _INDEX_NUMBER_BYTES
    start = max(0, size - length - _CRC_BYTES)
    data = os.pread(fd, length + _CRC_BYTES, start)
    table = data[:length]
    checksum = data[length:]
    expected = google_crc32c.value(table)
    if len(checksum) != _CRC_BYTES or expected != int.from_bytes(checksum, "little"):
        raise DamagedError(f"{path}: the index of the shard fails its checksum; publish again")
    return np.frombuffer(table, "<u8").reshape(channels, down, across, 2)


def _places_inside(level: PyramidLevel, pixels: NDArray[Any]) -> Iterator[_ChunkPlace]:
    """Yield the places of the chunks that hold any pixel of the image, in C order."""
    channels, height, width = pixels.shape
    down = -(-height // level.chunk)
    across = -(-width // level.chunk)
    return itertools.product(range(channels), range(down), range(across))


def _slices(level: PyramidLevel, place: _ChunkPlace) -> tuple[int, slice, slice]:
    """Return the place of a chunk inside its shard; an array's edge clips it."""
    channel, row, col = place
    side = level.chunk
    rows = slice(row * side, (row + 1) * side)
    cols = slice(col * side, (col + 1) * side)
    return channel, rows, cols
