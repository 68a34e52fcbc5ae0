"""Publish an image as sharded OME-Zarr 0.5 with a pyramid, one shard in memory at a time.

The source is asked once for each shard of level 0: row by row in squares of 2 x 2 shards, of 4 x 4
and so on, so that coarser levels are made of what is in memory. Levels are 2 x 2 means of what is
not nodata, down to one that fits a chunk. The same pixels give the same bytes.

Memory: some shards of C x shard x shard samples (one of every level up to 64 MiB, at least two),
and their compressed bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.box import Box
from storage.errors import FormatError
from storage.image_metadata import ImageMetadata
from storage.publishing.pyramid_writer import Publication, is_published, own_folders, unpublish
from storage.zarr_format.shard import DTYPES, PyramidLevel

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    Source = Callable[[Box], NDArray[Any]]

__all__ = ["is_published", "plan_levels", "publish", "unpublish"]

Progress = Callable[[int, int], None]
# Of shards that wait for their neighbours, so that they need not be decoded for the next level.
_HELD_BYTES = 64 << 20


def publish(
    source: Source,
    dest: Path | str,
    *,
    height: int,
    width: int,
    channels: int,
    dtype: DTypeLike,
    chunk: int = 512,
    shard: int = 2048,
    metadata: ImageMetadata | None = None,
    window: tuple[float, float] | None = None,
    name: str = "image",
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    threads: int = 2,
    progress: Progress | None = None,
) -> list[PyramidLevel]:
    """Write the image of `source` to the folder `dest`; return its levels, finest first.

    source: box -> (C, h, w) in `dtype` (uint8, uint16, int16 or float32). window: values shown as
    black and white. attributes: written beside the OME metadata. progress: (done, total) shards of
    all levels. The group's metadata appears last, by an atomic rename: a killed publish is not an
    image, and publishing again starts afresh. Other folders in `dest` are left alone. Raises
    FormatError when `dest` holds an image already and `overwrite` is false, or a folder in the way.
    """
    metadata = metadata or ImageMetadata()
    levels = plan_levels((channels, height, width), dtype, chunk=chunk, shard=shard)
    publication = Publication(Path(dest), tuple(levels), metadata.nodata)
    make_way(publication.dest, overwrite=overwrite)
    group = publication.group(
        name=name,
        metadata=metadata,
        attributes=attributes or {},
        window=window,
    )
    publication.begin(group)
    with ThreadPoolExecutor(threads) as pool:
        _PyramidBuilder(publication, source, pool, progress).build()
    publication.finish(group)
    return levels


class _PyramidBuilder:
    """Ask the source for the shards of level 0 and write those of all levels."""

    def __init__(
        self,
        publication: Publication,
        source: Source,
        pool: Executor,
        progress: Progress | None,
    ) -> None:
        self._publication = publication
        self._levels = publication.levels
        self._source = source
        self._pool = pool
        self._progress = progress
        self._done = 0
        self._total = sum(math.prod(level.grid) for level in self._levels)

    def build(self) -> None:
        """Write every shard once."""
        top = _held_levels(self._levels)
        for row, col in self._levels[top].places():
            self._build_below(top, row, col)
        # What is above is small, and made of the shards on the disk.
        for number in range(top + 1, len(self._levels)):
            for row, col in self._levels[number].places():
                self._publication.reduce(number, row, col, self._pool)
                self._count()

    def _build_below(
        self,
        number: int,
        row: int,
        col: int,
    ) -> NDArray[Any]:
        """Write a shard and everything under it; return its part of the next level."""
        if number:
            finer = partial(self._build_below, number - 1)
            pixels = self._publication.gathered(number, row, col, finer)
        else:
            box = self._levels[0].box(row, col)
            pixels = checked(self._levels[0], self._source(box), box)
        self._publication.write(row, col, pixels, self._pool, number)
        self._count()
        return self._publication.halved(pixels)

    def _count(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)


def plan_levels(
    shape: tuple[int, int, int],
    dtype: DTypeLike,
    *,
    chunk: int = 512,
    shard: int = 2048,
) -> list[PyramidLevel]:
    """Return the levels of an image (C, H, W), finest first, halving until one fits a chunk.

    Raises ValueError for empty images, a dtype that is not supported, or a shard that is not a
    multiple of the chunk.
    """
    positive = min(*shape, chunk) >= 1
    even_chunk = chunk % 2 == 0
    whole_chunks = shard >= chunk and shard % max(chunk, 1) == 0
    if not (positive and even_chunk and whole_chunks):
        raise ValueError(
            f"cannot publish (C, H, W) {shape} in chunks of {chunk} and shards of {shard} px: "
            "sizes must be positive, the chunk even and the shard a multiple of it"
        )
    kind = np.dtype(dtype).name
    if kind not in DTYPES:
        raise ValueError(f"dtype {kind} is not supported; supported: {', '.join(DTYPES)}")

    levels = [
        PyramidLevel.fit(
            shape=shape,
            dtype=kind,
            chunk=chunk,
            shard=shard,
        )
    ]
    while max(levels[-1].shape[1:]) > chunk:
        coarser = levels[-1].halved(shard)
        levels.append(coarser)
    return levels


def _held_levels(levels: Sequence[PyramidLevel]) -> int:
    """Return the number of the coarsest level whose shards are made of what is in memory.

    One shard of each level up to it waits for its neighbours.
    """
    finest = levels[0]
    channels = finest.shape[0]
    height, width = finest.shard
    shard_bytes = channels * height * width * np.dtype(finest.dtype).itemsize
    return min(len(levels) - 1, _HELD_BYTES // shard_bytes)


def make_way(dest: Path, *, overwrite: bool) -> None:
    """Clear `dest` for an image.

    Raises FormatError when it holds one, or numbered folders that no publish wrote.
    """
    if is_published(dest) and not overwrite:
        raise FormatError(
            f"{dest}: holds a published image already; choose another name or ask for overwriting"
        )
    dest.mkdir(parents=True, exist_ok=True)
    own = own_folders(dest)
    foreign = [path for path in dest.iterdir() if path.name.isdecimal() and path not in own]
    if foreign:
        raise FormatError(
            f"{dest}: holds numbered entries that no publish wrote; choose an empty or new folder"
        )
    unpublish(dest)


def checked(
    level: PyramidLevel,
    pixels: NDArray[Any],
    box: Box,
) -> NDArray[Any]:
    """Return what a source gave for a box; raises ValueError for another shape or dtype."""
    expected = (level.shape[0], *box.shape)
    if pixels.shape != expected or pixels.dtype != level.dtype:
        raise ValueError(
            f"the source gave {pixels.shape} {pixels.dtype} for {box}; "
            f"expected {expected} {level.dtype}"
        )
    return pixels
