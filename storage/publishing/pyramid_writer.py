"""A published image while it is being made: shards in any order, by any process.

    DEST/.publish.partial/    the image as far as it has come: an OME-Zarr group that viewers can
                              open and watch
    DEST/0, DEST/1, ...       its levels, moved here at the end
    DEST/zarr.json            written last of all: before that there is no image at DEST

Every shard is whole or absent, and every step can be repeated after a kill: a shard that exists is
whole, and a level that was moved is found there.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import atomic_files
from storage.image_metadata import VALIDITY, ImageMetadata
from storage.validity import marked
from storage.zarr_format import ome_metadata, zarr_json
from storage.zarr_format.downsample import halve, most_of_four
from storage.zarr_format.shard import PyramidLevel, Shard, encode_shard

UNFINISHED = f".publish{atomic_files.PARTIAL}"
"""Folder inside the destination that holds an image until it is finished."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Write the shards of an image and, when all are there, make it appear.

    Holds no pixels and no open files.
    """

    dest: Path
    levels: tuple[PyramidLevel, ...]
    """Finest first, as `storage.publishing.publish.plan_levels` makes them."""
    nodata: float | None = None
    """Left out of the means of coarser levels."""
    only_finite: bool = False
    """Whether NaN and infinity are left out of the means too."""
    masked: bool = False
    """Whether an image of the same shape beside this one says which samples are valid."""
    is_validity: bool = False
    """Whether this is such an image: a coarser sample is then the most of four."""

    @property
    def validity(self) -> Publication | None:
        """Return the writer of that image: how opaque a sample is, 0 where it is none."""
        if not self.masked:
            return None
        levels = tuple(replace(level, dtype="uint8") for level in self.levels)
        return Publication(self.dest / VALIDITY, levels, is_validity=True)

    @property
    def work(self) -> Path:
        """Return the folder of the unfinished image."""
        return self.dest / UNFINISHED

    def group(
        self,
        *,
        name: str,
        metadata: ImageMetadata,
        attributes: Mapping[str, Any],
        window: tuple[float, float] | None = None,
        shown: Sequence[tuple[float, float]] | None = None,
    ) -> dict[str, Any]:
        """Return the metadata of the finished image; see `ome_metadata.group_metadata`."""
        documents = [level.metadata() for level in self.levels]
        group = ome_metadata.group_metadata(
            documents,
            name=name,
            metadata=metadata,
            attributes=attributes,
            window=window,
            shown=shown,
            reduced="most" if self.is_validity else "mean",
        )
        if self.validity is not None:
            ome_metadata.add_member(group, VALIDITY, self.validity._group_of(metadata))
        return group

    def _group_of(self, metadata: ImageMetadata) -> dict[str, Any]:
        """Return the metadata of the image of valid samples. metadata: of the image itself."""
        place = replace(metadata, names=(), nodata=None, mask="", icc=None)
        return self.group(name=VALIDITY, metadata=place, attributes={})

    def begin(self, group: Mapping[str, Any]) -> None:
        """Create the unfinished image, or go on with what an earlier attempt has left of it."""
        if not self._same_levels():
            unpublish(self.dest)
        if self.validity is not None:
            self.validity.begin(ome_metadata.member(group, VALIDITY))
        self.work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()

        for number, level in enumerate(self.levels):
            self._begin_level(number, level)

        attributes = {**group["attributes"], "unfinished": True}
        unfinished = {**group, "attributes": attributes}
        self._put(self.work / zarr_json.ZARR_JSON, [zarr_json.dump(unfinished)])

    def _begin_level(self, number: int, level: PyramidLevel) -> None:
        """Create the folders of a level's shards, and its metadata."""
        folder = self._folder(number)
        rows, _ = level.grid
        for row in range(rows):
            first_shard = folder / zarr_json.object_key(row, 0)
            first_shard.parent.mkdir(parents=True, exist_ok=True)
        for path in (folder / "c" / "0", folder / "c", folder):
            atomic_files.fsync_folder(path)
        document = zarr_json.dump(level.metadata())
        self._put(folder / zarr_json.ZARR_JSON, [document])

    def has(
        self,
        number: int,
        row: int,
        col: int,
    ) -> bool:
        """Tell whether a shard of a level is there."""
        return self._path(number, row, col).is_file()

    def write(
        self,
        row: int,
        col: int,
        pixels: NDArray[Any],
        pool: Executor,
        number: int = 0,
        valid: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
    ) -> None:
        """Write a shard of a level; when this returns, bytes and name survive a power cut.

        pixels: (C, h, w), the shard's box clipped to the image. valid: which of them are, or how
        opaque (0 to 255), where the image says it beside them; their shard is there before that of
        the pixels. The same pixels give the same bytes.
        """
        if self.validity is not None:
            self.validity.write(row, col, marked(valid, pixels.shape), pool, number)
        stored = encode_shard(self.levels[number], pixels, pool)
        self._put(self._path(number, row, col), stored)

    def reduce(
        self,
        number: int,
        row: int,
        col: int,
        pool: Executor,
    ) -> None:
        """Write a shard of a coarser level from those of the finer one, one of them in memory."""
        validity = self.validity

        def halved(row: int, col: int) -> NDArray[Any]:
            pixels = self._stored(number - 1, row, col)
            valid = None if validity is None else validity._stored(number - 1, row, col) != 0
            return self.halved(pixels, valid)

        def most_valid(row: int, col: int) -> NDArray[Any]:
            assert validity is not None
            return validity.halved(validity._stored(number - 1, row, col))

        pixels = self.gathered(number, row, col, halved)
        valid = None
        if validity is not None:
            valid = validity.gathered(number, row, col, most_valid)
        self.write(row, col, pixels, pool, number, valid)

    def _stored(self, number: int, row: int, col: int) -> NDArray[Any]:
        """Return the samples of a shard that is there."""
        level = self.levels[number]
        with Shard.open(level, self._path(number, row, col)) as shard:
            return shard.read(level.box(row, col))

    def gathered(
        self,
        number: int,
        row: int,
        col: int,
        halved: Callable[[int, int], NDArray[Any]],
    ) -> NDArray[Any]:
        """Return the pixels of a shard of a coarser level.

        halved: (row, column) of a shard of the finer level -> its `halved` pixels.
        """
        finer = self.levels[number - 1]
        channels = finer.shape[0]
        box = self.levels[number].box(row, col)
        out = np.empty((channels, *box.shape), finer.dtype)
        for finer_row, finer_col in self._under(number, row, col):
            covered = finer.box(finer_row, finer_col).cover(2)
            rows, cols = covered.shift(-box.y0, -box.x0).slices()
            out[:, rows, cols] = halved(finer_row, finer_col)
        return out

    def halved(self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the 2 x 2 means of a shard's valid samples: its part of the next level."""
        if self.is_validity:
            return most_of_four(pixels)
        if self.only_finite and pixels.dtype.kind == "f":
            finite = np.isfinite(pixels)
            valid = finite if valid is None else finite & valid
        return halve(pixels, self.nodata, valid, apart=self.only_finite)

    def climb(
        self,
        row: int,
        col: int,
        pool: Executor,
    ) -> None:
        """Write the shards above one of level 0 as far as everything under them is there."""
        for number in range(1, len(self.levels)):
            row, col = self._above(number, row, col)
            if self.has(number, row, col):
                return
            under = self._under(number, row, col)
            if not all(self.has(number - 1, *place) for place in under):
                return
            self.reduce(number, row, col, pool)

    def complete(self, pool: Executor) -> None:
        """Write the coarser shards that are still missing; all of level 0 must be there."""
        for number, level in enumerate(self.levels[1:], 1):
            for row, col in level.places():
                if not self.has(number, row, col):
                    self.reduce(number, row, col, pool)

    def read_band(self, number: int, band: int) -> NDArray[Any]:
        """Return all pixels of a band of a level, (h, w), whose shards are all there."""
        level = self.levels[number]
        out = np.empty(level.shape[1:], level.dtype)
        for row, col in level.places():
            box = level.box(row, col)
            with Shard.open(level, self._path(number, row, col)) as shard:
                shard.fill(out[box.slices()], box, band)
        return out

    def finish(self, group: Mapping[str, Any]) -> None:
        """Move the levels into place and, last of all, say that there is an image."""
        if self.validity is not None:
            self.validity.finish(ome_metadata.member(group, VALIDITY))
        for number in range(len(self.levels)):
            unfinished = self.work / str(number)
            if unfinished.exists():  # else an earlier attempt has moved it
                unfinished.rename(self.dest / str(number))
        atomic_files.fsync_folder(self.dest)
        shutil.rmtree(self.work)
        document = zarr_json.dump(group)
        atomic_files.replace(self.dest / zarr_json.ZARR_JSON, [document], fsync=True)

    @property
    def _scratch(self) -> Path:
        return self.work / "tmp"

    def _folder(self, number: int) -> Path:
        """Return where a level is.

        It was moved already when a kill interrupted the end of a publish.
        """
        final = self.dest / str(number)
        return final if final.exists() else self.work / str(number)

    def _path(
        self,
        number: int,
        row: int,
        col: int,
    ) -> Path:
        return self._folder(number) / zarr_json.object_key(row, col)

    def _put(self, path: Path, data: atomic_files.Buffers) -> None:
        atomic_files.replace(path, data, fsync=True, scratch=self._scratch)

    def _above(
        self,
        number: int,
        row: int,
        col: int,
    ) -> tuple[int, int]:
        """Return the shard of a level over a shard of the finer one.

        The sides of a level's shards divide those of the finer level, doubled.
        """
        corner = self.levels[number - 1].box(row, col)
        height, width = self.levels[number].shard
        return corner.y0 // 2 // height, corner.x0 // 2 // width

    def _under(
        self,
        number: int,
        row: int,
        col: int,
    ) -> list[tuple[int, int]]:
        """Return the shards of the finer level under a shard."""
        finer = self.levels[number - 1]
        _, finer_height, finer_width = finer.shape
        box = self.levels[number].box(row, col).scale(2).clip(finer_height, finer_width)
        height, width = finer.shard
        rows = range(box.y0 // height, -(-box.y1 // height))
        cols = range(box.x0 // width, -(-box.x1 // width))
        return list(itertools.product(rows, cols))

    def _same_levels(self) -> bool:
        """Tell whether the levels that an earlier attempt left are these."""
        for number, level in enumerate(self.levels):
            folder = self._folder(number)
            begun = (folder / zarr_json.ZARR_JSON).is_file()
            if begun and zarr_json.load(folder) != level.metadata():
                return False
        return True


def is_published(dest: Path | str) -> bool:
    """Tell whether `dest` holds a finished image."""
    return (Path(dest) / zarr_json.ZARR_JSON).is_file()


def unpublish(dest: Path | str) -> None:
    """Delete a published image, or what a killed publish left; other folders stay.

    Its metadata goes first, so that a killed removal leaves no image.
    """
    dest = Path(dest)
    (dest / zarr_json.ZARR_JSON).unlink(missing_ok=True)
    for folder in own_folders(dest):
        shutil.rmtree(folder)


def own_folders(dest: Path) -> list[Path]:
    """Return what a publish writes in `dest`: the numbered levels and the unfinished work."""
    if not dest.is_dir():
        return []
    own = []
    for path in dest.iterdir():
        is_level = path.name.isdecimal() and (path / zarr_json.ZARR_JSON).is_file()
        if is_level:
            own.append(path)
    unfinished = dest / UNFINISHED
    if unfinished.is_dir():
        own.append(unfinished)
    validity = dest / VALIDITY
    if is_published(validity) or own_folders(validity):
        own.append(validity)
    return own
