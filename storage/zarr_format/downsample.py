"""The next coarser level of a pyramid: means of 2 x 2 pixels in the samples' own dtype.

Pixels without data are left out of the means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Marks = NDArray[np.bool_]

# What holds the sum of four samples exactly.
_WIDE = {
    "uint8": np.uint16,
    "uint16": np.uint32,
    "int16": np.int32,
    "float32": np.float64,
}

# Samples whose means are taken at a time, bytes: they stay in the processor's cache.
_CACHED_BYTES = 1 << 18


def halve(
    pixels: Array,
    nodata: float | None = None,
    valid: Marks | None = None,
    *,
    apart: bool = False,
) -> Array:
    """Return the 2 x 2 means of (C, H, W) samples in their own dtype: (C, ceil(H/2), ceil(W/2)).

    Whole numbers: halves rounded up (towards +infinity). A last odd row or column is averaged with
    itself. Samples that equal `nodata` (or are NaN, where it is NaN) do not count; four of them
    give nodata. Where `valid` (C, H, W) says which samples count, four of the others give the first
    of them. apart: a mean that is nodata by chance becomes the value beside it. dtype: uint8,
    uint16, int16 or float32.
    """
    pixels = _evened(pixels)
    empty: Array | None = None
    if nodata is not None and fits(nodata, pixels.dtype):
        empty = np.array(nodata, pixels.dtype)
    known = _known(pixels, empty, None if valid is None else _evened(valid))
    if known is None or known.all():
        means = _means(pixels)
        return means if empty is None or not apart else _beside(means, empty)

    zero = pixels.dtype.type(0)
    wide = _WIDE[pixels.dtype.name]
    total = _sums(np.where(known, pixels, zero), wide)
    count = _sums(known, np.uint8)
    at_least_one = np.maximum(count, 1)
    means = _divided(total, at_least_one, pixels.dtype)
    if empty is not None and apart:
        means = _beside(means, empty)
    # The values of samples that are none are kept as they are: the file's own, or nodata.
    return np.where(count > 0, means, pixels[:, ::2, ::2] if empty is None else empty)


def most_of_four(values: Array) -> Array:
    """Return the largest of 2 x 2 samples, (C, H, W) -> (C, ceil(H/2), ceil(W/2))."""
    even = _evened(values)
    rows = np.maximum(even[:, 0::2], even[:, 1::2])
    return np.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


def _beside(means: Array, empty: Array) -> Array:
    """Return means of samples with data, those that are nodata by chance moved by one value."""
    if means.dtype.kind == "f":
        other = np.nextafter(empty, means.dtype.type(1 if empty == 0 else 0))
    else:
        step = -1 if empty == np.iinfo(means.dtype).max else 1
        other = means.dtype.type(int(empty) + step)
    return np.where(means == empty, other, means)


def _known(pixels: Array, empty: Array | None, valid: Marks | None) -> Marks | None:
    """Return the samples that count; None where all do."""
    if empty is None:
        return valid
    known = ~np.isnan(pixels) if np.isnan(empty) else pixels != empty
    return np.asarray(known) if valid is None else np.asarray(known & valid)


def fits(nodata: float, dtype: DTypeLike) -> bool:
    """Tell whether a nodata value can occur among samples of a dtype.

    Files name -9999 for uint8 all the same.
    """
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return True
    limits = np.iinfo(kind)
    return float(nodata).is_integer() and limits.min <= nodata <= limits.max


def _evened(pixels: Array) -> Array:
    """Repeat a last odd row and column."""
    _, height, width = pixels.shape
    odd_rows = height % 2
    odd_columns = width % 2
    if not odd_rows and not odd_columns:
        return pixels
    padding = ((0, 0), (0, odd_rows), (0, odd_columns))
    return np.pad(pixels, padding, mode="edge")


def _means(pixels: Array) -> Array:
    """Return the means of (C, H, W) samples of even height and width, a few rows at a time."""
    channels, height, width = pixels.shape
    out = np.empty((channels, height // 2, width // 2), pixels.dtype)
    wide = _WIDE[pixels.dtype.name]

    row_bytes = width * pixels.itemsize
    pairs_of_rows = _CACHED_BYTES // row_bytes // 2
    rows = max(2, 2 * pairs_of_rows)
    for channel in range(channels):
        band = pixels[channel : channel + 1]
        for start in range(0, height, rows):
            end = start + rows
            sums = _sums(band[:, start:end], wide)
            means = _divided(sums, 4, pixels.dtype)
            out[channel, start // 2 : end // 2] = means[0]
    return out


def _sums(values: Array, dtype: DTypeLike) -> Array:
    """Return the sums of 2 x 2 values, (C, H, W) -> (C, H/2, W/2)."""
    # Two neighbours are the bytes of one number: adding its halves reads memory in one run.
    if values.dtype == np.uint8 and values.flags.c_contiguous:
        pairs = values.view(np.uint16)
        across = pairs & np.uint16(255)
        across += pairs >> np.uint16(8)
        upper = across[:, 0::2]
        lower = across[:, 1::2]
        return np.asarray(np.add(upper, lower, dtype=dtype))

    rows = np.add(values[:, 0::2], values[:, 1::2], dtype=dtype)
    left = rows[:, :, 0::2]
    right = rows[:, :, 1::2]
    return np.add(left, right, dtype=dtype)


def _divided(
    total: Array,
    count: int | Array,
    dtype: DTypeLike,
) -> Array:
    """Return total / count, rounded half up where the dtype is whole."""
    if np.dtype(dtype).kind == "f":
        return np.asarray(np.divide(total, count), dtype)

    if isinstance(count, int):  # 4; a shift rounds down, also below zero
        half = total.dtype.type(2)
        return np.asarray(np.right_shift(total + half, 2), dtype)

    # floor(t/c + 1/2) = floor((2 t + c) / 2 c) in whole numbers.
    wide_total = total.astype(np.int64)
    wide_count = count.astype(np.int64)
    rounded = (2 * wide_total + wide_count) // (2 * wide_count)
    return np.asarray(rounded, dtype)
