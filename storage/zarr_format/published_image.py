"""Read a published image for exporting: its own shards, level by level, without zarr-python."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.box import Box
from storage.errors import FormatError
from storage.image_metadata import VALIDITY, ImageMetadata
from storage.zarr_format import ome_metadata, zarr_json
from storage.zarr_format.shard import DTYPES, PyramidLevel, Shard


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """A finished image that this program published.

    Keeps nothing between reads; safe to read in several threads.
    """

    path: Path
    levels: tuple[PyramidLevel, ...]
    metadata: ImageMetadata
    """Of level 0."""
    provenance: dict[str, Any]
    """How it was made, as it was published; empty when the file does not say."""

    @classmethod
    def open(cls, path: Path | str) -> PublishedImage:
        """Read the metadata; raises FormatError for anything but an image that `publish` wrote."""
        folder = Path(path)
        document = zarr_json.load(folder)
        if document.get("node_type") != "group":
            raise FormatError(
                f"{path}: a zarr array, not a published image; give the OUT of a restoration"
            )
        names, metadata = ome_metadata.describe(str(path), document)
        levels = tuple(_level(folder / name) for name in names)
        provenance = document["attributes"].get("gigarestore") or {}
        return cls(folder, levels, metadata, dict(provenance))

    def open_validity(self) -> PublishedImage | None:
        """Open the image of the same shape that is 0 where a sample is none.

        None where the image has no such samples, or they are told by their value. Raises
        FormatError for one that is lost or damaged.
        """
        if not self.metadata.mask:
            return None
        validity = PublishedImage.open(self.path / VALIDITY)
        shapes = [level.shape for level in self.levels]
        if [level.shape for level in validity.levels] != shapes:
            raise FormatError(
                f"{validity.path}: has other levels than the image it belongs to; "
                "restore or publish the image again"
            )
        return validity

    @property
    def dtype(self) -> str:
        """Return the sample type."""
        return self.levels[0].dtype

    @property
    def channels(self) -> int:
        """Return the number of bands."""
        return self.levels[0].shape[0]

    def nbytes(self, levels: int | None = None) -> int:
        """Return the size of the decoded pixels of the first `levels` levels, bytes.

        None: of all levels.
        """
        samples = sum(math.prod(level.shape) for level in self.levels[:levels])
        return samples * np.dtype(self.dtype).itemsize

    def read(
        self,
        number: int,
        box: Box,
        channel: int | None = None,
    ) -> NDArray[Any]:
        """Return (C, h, w) of a window of a level, with `channel` only that band.

        Raises DamagedError for lost or damaged shards.
        """
        channels = self._chosen(channel)
        out = np.empty((len(channels), *box.shape), self.dtype)
        for opening, part in self._shards_under(number, box):
            target = part.shift(-box.y0, -box.x0).slices()
            with opening as shard:
                for band, chosen in zip(out, channels, strict=True):
                    shard.fill(band[target], part, chosen)
        return out

    def bands(
        self,
        number: int,
        box: Box,
        channel: int | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Yield the bands of a window one after the other, (h, w); see `read`.

        Each holds until the next is asked for.
        """
        out = np.empty(box.shape, self.dtype)
        with contextlib.ExitStack() as stack:
            parts = []
            for opening, part in self._shards_under(number, box):
                shard = stack.enter_context(opening)
                target = out[part.shift(-box.y0, -box.x0).slices()]
                parts.append((shard, part, target))
            for chosen in self._chosen(channel):
                for shard, part, target in parts:
                    shard.fill(target, part, chosen)
                yield out

    def _chosen(self, channel: int | None) -> Sequence[int]:
        """Return the bands that are asked for."""
        return range(self.channels) if channel is None else (channel,)

    def _shards_under(
        self, number: int, box: Box
    ) -> Iterator[tuple[AbstractContextManager[Shard], Box]]:
        """Yield the shards under a window, to be opened, and which part of it lies in them."""
        level = self.levels[number]
        folder = self.path / str(number)
        height, width = level.shard
        for row in range(box.y0 // height, -(-box.y1 // height)):
            for col in range(box.x0 // width, -(-box.x1 // width)):
                path = folder / zarr_json.object_key(row, col)
                part = level.box(row, col).intersect(box)
                yield Shard.open(level, path), part


def _level(folder: Path) -> PyramidLevel:
    """Return the geometry of an array; raises FormatError when `publish` did not write it."""
    document = zarr_json.load(folder)
    try:
        stored_object = document["chunk_grid"]["configuration"]["chunk_shape"]
        inner_chunk = document["codecs"][0]["configuration"]["chunk_shape"]
        level = PyramidLevel(
            shape=tuple(document["shape"]),
            dtype=document["data_type"],
            chunk=int(inner_chunk[-1]),
            shard=(stored_object[-2], stored_object[-1]),
        )
    except (KeyError, TypeError, IndexError):
        level = None
    if level is None or level.dtype not in DTYPES or level.metadata() != document:
        raise FormatError(
            f"{folder}: not a level that this program published; restore or publish the image again"
        )
    return level
