"""One stored object of a published level: many zstd chunks and an index, made whole in memory and
written at once.

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
_CRC_BYTES = 4


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
        cls, *, shape: tuple[int, int, int], dtype: str, chunk: int, shard: int
    ) -> PyramidLevel:
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
        return Box(row * height, col * width, (row + 1) * height, (col + 1) * width).clip(
            *self.shape[1:]
        )

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of every shard."""
        yield from itertools.product(*map(range, self.grid))

    def metadata(self) -> dict[str, Any]:
        """Return the zarr metadata of the array."""
        return zarr_json.array_metadata(
            shape=self.shape,
            dtype=self.dtype,
            chunk=(self.shape[0], *self.shard),
            codecs=[zarr_json.sharding_codec(self.dtype, (1, self.chunk, self.chunk))],
        )

    def halved(self, shard: int) -> PyramidLevel:
        """Return the next level of the pyramid, each side half as long, rounded up."""
        channels, height, width = self.shape
        shape = (channels, -(-height // 2), -(-width // 2))
        return PyramidLevel.fit(shape=shape, dtype=self.dtype, chunk=self.chunk, shard=shard)


def encode_shard(level: PyramidLevel, pixels: NDArray[Any], pool: Executor) -> list[bytes]:
    """Return the bytes of a shard, in parts. pixels: (C, h, w), the shard's box clipped to the
    image.
    """
    down, across = (side // level.chunk for side in level.shard)
    index = np.full((level.shape[0], down, across, 2), _ABSENT, "<u8")
    present = list(_present(level, pixels))
    parts = list(
        pool.map(
            lambda where: encode_chunk(pixels[_slices(level, *where)], (level.chunk, level.chunk)),
            present,
        )
    )
    offset = 0
    for where, part in zip(present, parts, strict=True):
        index[where] = offset, len(part)
        offset += len(part)
    table = index.tobytes()
    return [*parts, table, google_crc32c.value(table).to_bytes(_CRC_BYTES, "little")]


class _Room(threading.local):
    """Memory of every thread for the stored bytes of a chunk: using it again costs less than page
    faults of a map.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, fd: int, start: int, length: int) -> memoryview:
        """Return what lies there in a file; it holds until the next read of this thread."""
        if len(self._bytes) < length:
            self._bytes = bytearray(length)
        view = memoryview(self._bytes)[:length]
        return view[: os.preadv(fd, [view], start)]


_ROOM = _Room()


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard in its file, whose chunks are read and decoded when they are asked for. Safe to use
    in several threads.
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
        """Read the index; raises DamagedError naming the file when it is missing or fails its
        checksum.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DamagedError(f"{path}: missing from the array; restore the image again") from None
        try:
            size = os.fstat(fd).st_size
            yield cls(level, path, fd, size, _index(level, path, fd, size))
        finally:
            os.close(fd)

    def read(self, window: Box) -> NDArray[Any]:
        """Return (C, h, w) of a window of the image that lies in this shard, decoding only the
        chunks under it.

        Raises DamagedError naming the chunk.
        """
        out = np.empty((self.level.shape[0], *window.shape), self.level.dtype)
        for channel, band in enumerate(out):
            self.fill(band, window, channel)
        return out

    def fill(self, out: NDArray[Any], window: Box, channel: int) -> None:
        """Decode one band of a window into (h, w) of the level's dtype; see `read`."""
        side = self.level.chunk
        stored = np.dtype(self.level.dtype).newbyteorder("<")
        down, across = (length // side for length in self.level.shard)
        rows = range(window.y0 // side, -(-window.y1 // side))
        cols = range(window.x0 // side, -(-window.x1 // side))
        for row, col in itertools.product(rows, cols):
            y0 = row * side
            x0 = col * side
            target = out[
                max(0, y0 - window.y0) : y0 + side - window.y0,
                max(0, x0 - window.x0) : x0 + side - window.x0,
            ]
            whole = (
                target.shape == (side, side)
                and target.dtype == stored
                and target.flags.c_contiguous
            )
            chunk = target if whole else np.empty((side, side), stored)
            where = (channel, row % down, col % across)
            start, length = self.index[where].tolist()
            try:
                decode_chunk(
                    _ROOM.read(self.fd, start, length) if start + length <= self.size else b"",
                    chunk,
                )
            except ValueError as error:
                raise DamagedError(
                    f"{self.path}: chunk {where} is damaged ({error}); publish again"
                ) from error
            if not whole:
                inside = chunk[max(0, window.y0 - y0) :, max(0, window.x0 - x0) :]
                target[...] = inside[: target.shape[0], : target.shape[1]]


def _index(level: PyramidLevel, path: Path, fd: int, size: int) -> NDArray[np.uint64]:
    """Return (first byte, length) of every chunk, (C, down, across, 2)."""
    down, across = (side // level.chunk for side in level.shard)
    length = level.shape[0] * down * across * 16
    data = os.pread(fd, length + _CRC_BYTES, max(0, size - length - _CRC_BYTES))
    table = data[:length]
    crc = data[length:]
    if len(crc) != _CRC_BYTES or google_crc32c.value(table) != int.from_bytes(crc, "little"):
        raise DamagedError(f"{path}: the index of the shard fails its checksum; publish again")
    return np.frombuffer(table, "<u8").reshape(level.shape[0], down, across, 2)


def _present(level: PyramidLevel, pixels: NDArray[Any]) -> Iterator[tuple[int, int, int]]:
    """Yield (channel, row, column) of the chunks that hold any pixel of the image."""
    channels, height, width = pixels.shape
    return itertools.product(
        range(channels), range(-(-height // level.chunk)), range(-(-width // level.chunk))
    )


def _slices(level: PyramidLevel, channel: int, row: int, col: int) -> tuple[int, slice, slice]:
    """Return the place of a chunk inside its shard; an array's edge clips it."""
    side = level.chunk
    return channel, slice(row * side, (row + 1) * side), slice(col * side, (col + 1) * side)
