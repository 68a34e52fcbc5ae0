"""A measurement pooled for a coarser level, made by blocks.

A pooled value is the average of the known ones of k x k pixels, NaN where none is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from storage import atomic_files
from storage.box import Box
from storage.errors import DamagedError

Array = NDArray[np.float32]

# Side of the blocks that are pooled at a time and of the stored chunks, px of the pooled image.
BLOCK = 512


@dataclass(frozen=True, slots=True)
class Pooled:
    """A pooled measurement, (C, height, width) float32 in [-1, 1], NaN where unknown."""

    array: zarr.Array

    @property
    def height(self) -> int:
        return int(self.array.shape[1])

    @property
    def width(self) -> int:
        return int(self.array.shape[2])

    def read(self, box: Box) -> Array:
        """Read a window inside the image as (C, h, w).

        Raises DamagedError when a stored block is lost.
        """
        rows, columns = box.slices()
        window = np.asarray(self.array[:, rows, columns], dtype=np.float32)
        if np.isinf(window).any():
            raise DamagedError(
                f"{self.array.store_path}: the pooled measurement at {box} is lost; "
                "remove it and resume"
            )
        return window


def open_pooled(path: Path) -> Pooled:
    """Open a pooled measurement that `build_pooled` finished."""
    return Pooled(zarr.open_array(path, mode="r"))


def build_pooled(
    read: Callable[[int, int, int, int], Array],
    channels: int,
    height: int,
    width: int,
    factor: int,
    dest: Path,
) -> Pooled:
    """Pool `read(y0, x0, y1, x1)` into a new array at `dest`, which appears whole or not at all.

    read: gives (C, y1 - y0, x1 - x0) of an image that may be read beyond its edge. height, width:
    size of the pooled image, px. Memory: one block of (factor * 512)^2 pixels.
    """
    with atomic_files.atomic_folder(dest, fsync=False) as folder:
        array = zarr.create_array(
            store=folder,
            shape=(channels, height, width),
            chunks=(channels, min(BLOCK, height), min(BLOCK, width)),
            dtype="float32",
            compressors=[Crc32cCodec()],
            fill_value=float("inf"),  # never a value: a lost chunk shows
            config={"write_empty_chunks": True},
        )
        for y in range(0, height, BLOCK):
            for x in range(0, width, BLOCK):
                y1 = min(y + BLOCK, height)
                x1 = min(x + BLOCK, width)
                fine = read(y * factor, x * factor, y1 * factor, x1 * factor)
                groups = fine.reshape(channels, y1 - y, factor, x1 - x, factor)
                array[:, y:y1, x:x1] = _mean_of_known(groups)
    return open_pooled(dest)


def _mean_of_known(cells: Array) -> Array:
    """Return the mean over the known pixels of (C, h, k, w, k) cells, NaN where none is known."""
    known = ~np.isnan(cells)
    count = known.sum(axis=(2, 4))
    total = np.where(known, cells, 0).sum(axis=(2, 4), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
