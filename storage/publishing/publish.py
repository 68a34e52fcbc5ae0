"""Publish an image as sharded OME-Zarr 0.5 with a pyramid, one shard in memory at a time, in any
order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
# Of shards that wait for their neighbours, so that they need not be decoded for the next level,
# bytes.
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
    """Write the image that `source` delivers to the folder `dest` and return its levels, finest
    first.

    source: box -> (C, h, w) in `dtype` (uint8, uint16, int16 or float32), called once per shard of
    level 0: row by row in squares of 2 x 2 shards, of 4 x 4 and so on, so that coarser levels are
    made of what is in memory. window: values shown as black and white. attributes: written beside
    the OME metadata. progress: (done, total) shards of all levels. Levels are 2 x 2 means of what
    is not nodata, down to one that fits a chunk. The group's metadata appears last, by an atomic
    rename: a killed publish is not an image, and publishing again starts afresh. The same pixels
    give the same bytes. Other folders in `dest` are left alone. Memory: some shards of C x shard x
    shard samples (one of every level up to 64 MiB, at least two), and their compressed bytes.
    Raises FormatError when `dest` holds an image already and `overwrite` is false, or a folder in
    the way.
    """
    metadata = metadata or ImageMetadata()
    levels = plan_levels((channels, height, width), dtype, chunk=chunk, shard=shard)
    publication = Publication(Path(dest), tuple(levels), metadata.nodata)
    make_way(publication.dest, overwrite=overwrite)
    group = publication.group(
        name=name, metadata=metadata, attributes=attributes or {}, window=window
    )
    publication.begin(group)
    total = sum(level.grid[0] * level.grid[1] for level in levels)
    done = 0
    top = _held_levels(levels)

    with ThreadPoolExecutor(threads) as pool:

        def count() -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, total)

        def build(number: int, row: int, col: int) -> NDArray[Any]:
            """Write a shard and everything under it; return its part of the next level."""
            if number:
                pixels = publication.gathered(number, row, col, partial(build, number - 1))
            else:
                box = levels[0].box(row, col)
                pixels = checked(levels[0], source(box), box)
            publication.write(row, col, pixels, pool, number)
            count()
            return publication.halved(pixels)

        for row, col in levels[top].places():
            build(top, row, col)
        for number, level in enumerate(levels[top + 1 :], top + 1):
            for row, col in level.places():
                publication.reduce(number, row, col, pool)
                count()
    publication.finish(group)
    return levels


def plan_levels(
    shape: tuple[int, int, int], dtype: DTypeLike, *, chunk: int = 512, shard: int = 2048
) -> list[PyramidLevel]:
    """Return the levels of an image (C, H, W), finest first, halving until one fits a chunk.

    Raises ValueError for empty images, a dtype that is not supported, or a shard that is not a
    multiple of the chunk.
    """
    if min(*shape, chunk) < 1 or chunk % 2 or shard < chunk or shard % chunk:
        raise ValueError(
            f"cannot publish (C, H, W) {shape} in chunks of {chunk} and shards of {shard} px: sizes must be positive, "
            "the chunk even and the shard a multiple of it"
        )
    kind = np.dtype(dtype).name
    if kind not in DTYPES:
        raise ValueError(f"dtype {kind} is not supported; supported: {', '.join(DTYPES)}")
    levels = [PyramidLevel.fit(shape=shape, dtype=kind, chunk=chunk, shard=shard)]
    while max(levels[-1].shape[1:]) > chunk:
        levels.append(levels[-1].halved(shard))
    return levels


def _held_levels(levels: list[PyramidLevel]) -> int:
    """Return the number of the coarsest level whose shards are made of what is in memory: one of
    each level waits.
    """
    channels = levels[0].shape[0]
    shard = levels[0].shard
    each = channels * shard[0] * shard[1] * np.dtype(levels[0].dtype).itemsize
    return min(len(levels) - 1, _HELD_BYTES // each)


def make_way(dest: Path, *, overwrite: bool) -> None:
    """Clear `dest` for an image; raises FormatError when it holds one, or numbered folders that no
    publish wrote.
    """
    if is_published(dest) and not overwrite:
        raise FormatError(
            f"{dest}: holds a published image already; choose another name or ask for overwriting"
        )
    dest.mkdir(parents=True, exist_ok=True)
    own = own_folders(dest)
    if any(path.name.isdecimal() and path not in own for path in dest.iterdir()):
        raise FormatError(
            f"{dest}: holds numbered entries that no publish wrote; choose an empty or new folder"
        )
    unpublish(dest)


def checked(level: PyramidLevel, pixels: NDArray[Any], box: Box) -> NDArray[Any]:
    """Return what a source gave for a box; raises ValueError for another shape or dtype."""
    expected = (level.shape[0], *box.shape)
    if pixels.shape != expected or pixels.dtype != level.dtype:
        raise ValueError(
            f"the source gave {pixels.shape} {pixels.dtype} for {box}; expected {expected} {level.dtype}"
        )
    return pixels
