"""Read a published image for exporting: its own shards without zarr-python in between, level by level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import files, ome, shards, zarr_meta
from storage.box import Box
from storage.errors import DamagedError, FormatError
from storage.meaning import Meaning
from storage.shards import DTYPES, Level


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """A finished image that this program published. Keeps nothing between reads."""

    path: Path
    levels: tuple[Level, ...]
    meaning: Meaning
    """Of level 0."""
    provenance: dict[str, Any]
    """How it was made, as it was published; empty when the file does not say."""

    @classmethod
    def open(cls, path: Path | str) -> PublishedImage:
        """Read the metadata; raises FormatError for anything but an image that `publish` wrote."""
        folder = Path(path)
        document = zarr_meta.load(folder)
        if document.get("node_type") != "group":
            raise FormatError(f"{path}: a zarr array, not a published image; give the OUT of a restoration")
        names, meaning = ome.describe(str(path), document)
        levels = tuple(_level(folder / name) for name in names)
        return cls(folder, levels, meaning, dict(document["attributes"].get("gigarestore") or {}))

    @property
    def dtype(self) -> str:
        """Return the sample type."""
        return self.levels[0].dtype

    @property
    def channels(self) -> int:
        """Return the number of bands."""
        return self.levels[0].shape[0]

    def nbytes(self, levels: int | None = None) -> int:
        """Return the size of the decoded pixels of the first `levels` levels (default: all), bytes."""
        return sum(int(np.prod(level.shape)) for level in self.levels[:levels]) * np.dtype(self.dtype).itemsize

    def read(self, number: int, box: Box, channel: int | None = None) -> NDArray[Any]:
        """Return (C, h, w) of a window of a level, with `channel` only that band.

        Raises DamagedError for lost or damaged shards.
        """
        level = self.levels[number]
        height, width = level.shard
        out = np.empty((level.shape[0] if channel is None else 1, *box.shape), level.dtype)
        for row in range(box.y0 // height, -(-box.y1 // height)):
            for col in range(box.x0 // width, -(-box.x1 // width)):
                part = level.box(row, col).intersect(box)
                path = self.path / str(number) / zarr_meta.object_key(row, col)
                try:
                    data = files.mapped(path)
                except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
                    raise DamagedError(f"{path}: missing from the array; restore the image again") from None
                with data, memoryview(data) as view:
                    pixels = shards.decode(level, view, part, str(path), channel)
                if part == box:
                    return pixels
                out[(slice(None), *part.shift(-box.y0, -box.x0).slices())] = pixels
        return out


def _level(folder: Path) -> Level:
    """Return the geometry of an array; raises FormatError when it is not one that `publish` wrote."""
    found = zarr_meta.load(folder)
    try:
        shard = found["chunk_grid"]["configuration"]["chunk_shape"]
        inner = found["codecs"][0]["configuration"]["chunk_shape"]
        level = Level(
            shape=tuple(found["shape"]), dtype=found["data_type"], chunk=int(inner[-1]), shard=(shard[-2], shard[-1])
        )
    except (KeyError, TypeError, IndexError):
        level = None
    if level is None or level.dtype not in DTYPES or level.metadata() != found:
        raise FormatError(f"{folder}: not a level that this program published; restore or publish the image again")
    return level
