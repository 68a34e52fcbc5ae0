"""Which samples are valid: by their value, by two rules, and as it is stored beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.image import Marks, Pixels

VALID = 255
"""What is stored of a valid sample; 0 of another."""


def by_value(pixels: Pixels, nodata: float | None) -> Marks | None:
    """Return which samples are finite numbers other than `nodata`, of the same shape.

    None where all can only be that.
    """
    if pixels.dtype.kind != "f":
        if nodata is None or not _occurs(pixels, nodata):
            return None
        return np.asarray(pixels != nodata)

    finite: Marks = np.isfinite(pixels)
    if nodata is None or np.isnan(nodata):
        return finite
    return np.asarray(finite & (pixels != pixels.dtype.type(nodata)))


def _occurs(pixels: Pixels, nodata: float) -> bool:
    """Tell whether a whole dtype can hold a value; files name -9999 for uint8 all the same."""
    limits = np.iinfo(pixels.dtype)
    return float(nodata).is_integer() and limits.min <= nodata <= limits.max


def both(one: Marks | None, other: Marks | None) -> Marks | None:
    """Return the samples that are valid by two rules; None stands for all."""
    if one is None or other is None:
        return other if one is None else one
    return np.asarray(one & other)


def opacity_of(alpha: Pixels, peak: float) -> NDArray[np.uint8]:
    """Return stored alpha, of the same shape, in 8 bits; nothing but 0 becomes 0."""
    eight_bits = np.rint(alpha.astype(np.float64) * (VALID / peak)).clip(0, VALID)
    return np.where(alpha > 0, np.maximum(eight_bits, 1), 0).astype(np.uint8)


def marked(
    valid: NDArray[np.bool_] | NDArray[np.uint8] | None, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Return what is stored of samples (C, h, w).

    valid: (C, h, w) or (1, h, w), true or as opaque as it is; None: all, wholly.
    """
    if valid is None:
        return np.full(shape, VALID, np.uint8)
    stored = valid.astype(np.uint8)
    if valid.dtype == bool:
        stored *= np.uint8(VALID)
    return np.ascontiguousarray(np.broadcast_to(stored, shape))
