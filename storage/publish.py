"""Publish a finished image as sharded OME-Zarr 0.5 with a pyramid, one shard in memory at a time."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage import files, ome, shards, zarr_meta
from storage.box import Box
from storage.errors import FormatError
from storage.pixels import dtype_name, halve
from storage.shards import Level

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from storage.image import Pixels

    Source = Callable[[Box], Pixels]

Progress = Callable[[int, int], None]
_UNFINISHED = f".publish{files.PARTIAL}"


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
    pixel_size: tuple[float, float] | None = None,
    name: str = "image",
    attributes: Mapping[str, Any] | None = None,
    icc: bytes | None = None,
    overwrite: bool = False,
    threads: int = 2,
    progress: Progress | None = None,
) -> list[Level]:
    """Write the image that `source` delivers to the folder `dest` and return its levels, finest first.

    source: box -> (C, h, w) in `dtype` (uint8 or uint16), called once per shard of level 0, row by row.
    pixel_size: (y, x) of level 0 in micrometres. attributes: written beside the OME metadata. progress: (done, total)
    shards of all levels. Levels are 2 x 2 means down to one that fits a chunk.
    The group's metadata appears last, by an atomic rename: a killed publish is not an image, and publishing again
    starts afresh. The same pixels give the same bytes. Other folders in `dest` are left alone.
    Memory: one shard of C x shard x shard samples, its compressed bytes, and one shard of the level below.
    Raises FormatError when `dest` holds an image already and `overwrite` is false, or a folder in the way.
    """
    levels = plan_levels((channels, height, width), dtype, chunk=chunk, shard=shard)
    dest = Path(dest)
    work = _make_way(dest, overwrite=overwrite)
    total, done = sum(level.grid[0] * level.grid[1] for level in levels), 0
    with ThreadPoolExecutor(threads) as pool:
        for number, level in enumerate(levels):
            folder = work / str(number)
            for row, col in level.places():
                box = level.box(row, col)
                if number:
                    pixels = _halved(work / str(number - 1), levels[number - 1], box)
                else:
                    pixels = _checked(level, source(box), box)
                _write_shard(folder, level, row, col, pixels, pool)
                done += 1
                if progress:
                    progress(done, total)
            _seal(folder, level)
    documents = [level.metadata() for level in levels]
    group = ome.group_metadata(documents, name=name, pixel_size=pixel_size, attributes=dict(attributes or {}), icc=icc)
    _finish(work, dest, len(levels), zarr_meta.dump(group))
    return levels


def plan_levels(shape: tuple[int, int, int], dtype: DTypeLike, *, chunk: int = 512, shard: int = 2048) -> list[Level]:
    """Return the levels of an image (C, H, W), finest first, halving until one fits a chunk.

    Raises ValueError for empty images, a dtype that is not supported, or a shard that is not a multiple of the chunk.
    """
    if min(*shape, chunk) < 1 or chunk % 2 or shard < chunk or shard % chunk:
        raise ValueError(
            f"cannot publish (C, H, W) {shape} in chunks of {chunk} and shards of {shard} px: sizes must be positive, "
            "the chunk even and the shard a multiple of it"
        )
    levels = [Level.fit(shape=shape, dtype=dtype_name(dtype), chunk=chunk, shard=shard)]
    while max(levels[-1].shape[1:]) > chunk:
        levels.append(levels[-1].halved(shard))
    return levels


def is_published(dest: Path | str) -> bool:
    """Tell whether `dest` holds a finished image."""
    return (Path(dest) / zarr_meta.ZARR_JSON).is_file()


def unpublish(dest: Path | str) -> None:
    """Delete a published image, or what a killed publish left; its metadata goes first. Other folders stay."""
    dest = Path(dest)
    (dest / zarr_meta.ZARR_JSON).unlink(missing_ok=True)
    for folder in _own_folders(dest):
        shutil.rmtree(folder)


def _make_way(dest: Path, *, overwrite: bool) -> Path:
    """Return a fresh work folder inside `dest`."""
    if is_published(dest) and not overwrite:
        raise FormatError(f"{dest}: holds a published image already; choose another name or ask for overwriting")
    dest.mkdir(parents=True, exist_ok=True)
    own = _own_folders(dest)
    if any(path.name.isdecimal() and path not in own for path in dest.iterdir()):
        raise FormatError(f"{dest}: holds numbered entries that no publish wrote; choose an empty or new folder")
    unpublish(dest)
    work = dest / _UNFINISHED
    work.mkdir()
    return work


def _own_folders(dest: Path) -> list[Path]:
    """Return what a publish writes in `dest`: the levels (numbered zarr arrays) and the unfinished work."""
    if not dest.is_dir():
        return []
    levels = [p for p in dest.iterdir() if p.name.isdecimal() and (p / zarr_meta.ZARR_JSON).is_file()]
    return levels + [p for p in (dest / _UNFINISHED,) if p.is_dir()]


def _checked(level: Level, pixels: Pixels, box: Box) -> Pixels:
    expected = (level.shape[0], *box.shape)
    if pixels.shape != expected or pixels.dtype != level.dtype:
        raise ValueError(f"the source gave {pixels.shape} {pixels.dtype} for {box}; expected {expected} {level.dtype}")
    return pixels


def _write_shard(folder: Path, level: Level, row: int, col: int, pixels: Pixels, pool: Executor) -> None:
    path = folder / zarr_meta.object_key(row, col)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_new(path, shards.encode(level, pixels, pool), fsync=True)


def _halved(folder: Path, finer: Level, box: Box) -> Pixels:
    """Return the pixels of a coarser level's box from the shards of the finer level, one at a time."""
    out = np.empty((finer.shape[0], *box.shape), finer.dtype)
    wanted = box.scale(2).clip(*finer.shape[1:])
    (height, width) = finer.shard
    rows, columns = (
        range(wanted.y0 // height, -(-wanted.y1 // height)),
        range(wanted.x0 // width, -(-wanted.x1 // width)),
    )
    for row, col in itertools.product(rows, columns):
        place = finer.box(row, col)
        path = folder / zarr_meta.object_key(row, col)
        part = halve(shards.decode(finer, path.read_bytes(), place, str(path)))
        target = place.cover(2).shift(-box.y0, -box.x0)
        out[(slice(None), *target.slices())] = part
    return out


def _seal(folder: Path, level: Level) -> None:
    """Make a level's names durable, then write the metadata that makes it an array."""
    objects = folder / "c" / "0"
    for path in (*objects.iterdir(), objects, objects.parent):
        files.fsync_folder(path)
    files.replace(folder / zarr_meta.ZARR_JSON, [zarr_meta.dump(level.metadata())], fsync=True)


def _finish(work: Path, dest: Path, levels: int, group: bytes) -> None:
    """Move the finished levels into place and, last of all, say that there is an image."""
    for number in range(levels):
        (work / str(number)).rename(dest / str(number))
    work.rmdir()
    files.fsync_folder(dest)
    files.replace(dest / zarr_meta.ZARR_JSON, [group], fsync=True)
