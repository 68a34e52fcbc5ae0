"""Between stored samples and the network's range [-1, 1]: the full range of the dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storage.image import Dtype

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from storage.image import Pixels

PEAK = {"uint8": 255, "uint16": 65535}
"""Largest sample of each supported dtype; it maps to +1, and 0 maps to -1."""


def to_unit(array: Pixels, dtype: DTypeLike | None = None) -> NDArray[np.float32]:
    """Map samples of `dtype` to float32 in [-1, 1]: 2 v / peak - 1. Any shape.

    dtype: default the array's own. Raises ValueError for another one than uint8 or uint16.
    """
    largest = peak(array.dtype if dtype is None else dtype)
    scale = np.float32(2.0 / largest)
    return array.astype(np.float32) * scale - np.float32(1)


def from_unit(values: NDArray[np.floating], dtype: DTypeLike) -> Pixels:
    """Map [-1, 1] to samples: floor((v + 1) / 2 * peak + 1/2), values outside clipped. Any shape.

    This is the one rounding of a run. Raises ValueError for NaN and for another dtype than uint8 or
    uint16.
    """
    largest = peak(dtype)
    samples = values.astype(np.float32) + np.float32(1)
    samples *= np.float32(largest / 2)
    samples += np.float32(0.5)
    np.clip(samples, 0, largest, out=samples)
    if np.isnan(samples).any():
        name = np.dtype(dtype).name
        raise ValueError(
            f"NaN cannot become {name}; the result that is being published is not finite"
        )
    return samples.astype(dtype)  # truncation of values >= 0 is the floor


def peak(dtype: DTypeLike) -> int:
    """Return the largest sample; raises ValueError for a dtype that is not supported."""
    name = np.dtype(dtype).name
    if name not in PEAK:
        raise ValueError(f"dtype {name} is not supported; supported: {', '.join(PEAK)}")
    return PEAK[name]


def dtype_name(dtype: DTypeLike) -> Dtype:
    """Return 'uint8' or 'uint16'; raises ValueError for another dtype."""
    return "uint8" if peak(dtype) == PEAK["uint8"] else "uint16"
