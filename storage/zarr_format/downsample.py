"""The next coarser level of a pyramid: means of 2 x 2 pixels in the samples' own dtype, nodata left
out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

# What holds the sum of four samples exactly.
_WIDE = {"uint8": np.uint16, "uint16": np.uint32, "int16": np.int32, "float32": np.float64}

# Samples whose means are taken at a time, bytes.
_CACHED_BYTES = 1 << 18


def halve(pixels: Array, nodata: float | None = None) -> Array:
    """Return the 2 x 2 means of (C, H, W) samples in their own dtype: (C, ceil(H/2), ceil(W/2)).

    Whole numbers: halves rounded up (towards +infinity). A last odd row or column is averaged with
    itself. Samples that equal `nodata` (or are NaN, where it is NaN) do not count; four of them
    give nodata. dtype: uint8, uint16, int16 or float32.
    """
    _, height, width = pixels.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    if nodata is None or not fits(nodata, pixels.dtype):
        return _means(pixels)
    known = ~np.isnan(pixels) if math.isnan(nodata) else pixels != pixels.dtype.type(nodata)
    if known.all():
        return _means(pixels)
    total = _sums(np.where(known, pixels, pixels.dtype.type(0)), _WIDE[pixels.dtype.name])
    count = _sums(known, np.uint8)
    means = _divided(total, np.maximum(count, 1), pixels.dtype)
    return np.where(count > 0, means, pixels.dtype.type(nodata))


def fits(nodata: float, dtype: DTypeLike) -> bool:
    """Tell whether a nodata value can occur among samples of a dtype; files name -9999 for uint8
    all the same.
    """
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return True
    limits = np.iinfo(kind)
    return float(nodata).is_integer() and limits.min <= nodata <= limits.max


def _means(pixels: Array) -> Array:
    """Return the means of (C, H, W) samples of even height and width, a few rows at a time: they
    stay in the cache.
    """
    channels, height, width = pixels.shape
    out = np.empty((channels, height // 2, width // 2), pixels.dtype)
    rows = max(2, _CACHED_BYTES // (width * pixels.itemsize) // 2 * 2)
    for channel in range(channels):
        for start in range(0, height, rows):
            part = _sums(
                pixels[channel : channel + 1, start : start + rows], _WIDE[pixels.dtype.name]
            )
            out[channel, start // 2 : (start + rows) // 2] = _divided(part, 4, pixels.dtype)[0]
    return out


def _sums(values: Array, dtype: DTypeLike) -> Array:
    if (
        values.dtype == np.uint8 and values.flags.c_contiguous
    ):  # two neighbours are the bytes of one number
        pairs = values.view(np.uint16)
        across = pairs & np.uint16(255)
        across += pairs >> np.uint16(8)
        return np.asarray(np.add(across[:, 0::2], across[:, 1::2], dtype=dtype))
    rows = np.add(values[:, 0::2], values[:, 1::2], dtype=dtype)
    return np.add(rows[:, :, 0::2], rows[:, :, 1::2], dtype=dtype)


def _divided(total: Array, count: int | Array, dtype: DTypeLike) -> Array:
    """Return total / count, rounded half up where the dtype is whole."""
    if np.dtype(dtype).kind == "f":
        return np.asarray(np.divide(total, count), dtype)
    if isinstance(count, int):  # 4; a shift rounds down, also below zero
        return np.asarray(np.right_shift(total + total.dtype.type(2), 2), dtype)
    wide = count.astype(np.int64)
    return np.asarray((2 * total.astype(np.int64) + wide) // (2 * wide), dtype)
