"""What values an image uses: percentiles of windows spread over it, in bounded reads.

Samples that use a small part of their dtype (12-bit cameras, reflectance, fluorescence) would
reach a network as nearly black. The range is taken from windows on an even lattice, so that two
looks at one image agree, and is a little wider than what was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.box import Box

Stored = NDArray[Any]
ReadSamples = Callable[[Box], Stored]
Validity = Callable[[Stored], NDArray[np.bool_] | None]

# Windows that are looked at and their side, px: 64 x 64 x 128 x 128 samples of a band at most.
WINDOWS = 8
SIDE = 128
# The share of samples that may lie beyond either end, and the room beyond what was seen, as a
# part of the spread. Trials on real scenes: docs/RESULTS.md.
TAIL = 0.001
HEADROOM = 0.05


@dataclass(frozen=True, slots=True)
class ValueStatistics:
    """Percentiles of the valid samples of each band, stored values."""

    low: tuple[float, ...]
    """Per band; NaN where no sample of it is valid."""
    high: tuple[float, ...]
    seen: int
    """Valid samples that were looked at, all bands."""

    def together(self) -> tuple[float, float] | None:
        """Return the range of all bands; None where no sample is valid."""
        lows = [low for low in self.low if low == low]
        highs = [high for high in self.high if high == high]
        return (min(lows), max(highs)) if lows else None


def spread_windows(height: int, width: int) -> list[Box]:
    """Return windows on an even lattice over an image; the whole image where it is small.

    The same image has the same windows, and no two of them share a pixel.
    """
    rows = _places(height)
    cols = _places(width)
    return [Box(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in cols]


def _places(length: int) -> list[tuple[int, int]]:
    """Return up to WINDOWS spans of at most SIDE px, evenly over a length."""
    if length <= WINDOWS * SIDE:
        return [(lo, min(lo + SIDE, length)) for lo in range(0, length, SIDE)]
    gap = (length - SIDE) / (WINDOWS - 1)
    firsts = [round(k * gap) for k in range(WINDOWS)]
    return [(first, first + SIDE) for first in firsts]


def value_statistics(
    read: ReadSamples, validity: Validity, height: int, width: int, bands: int
) -> ValueStatistics:
    """Look at the spread windows of an image and return percentiles of its valid samples.

    read: stored samples (C, h, w) of a box. validity: which of them are valid, (C, h, w) bool, or
    None for all. Memory is that of the windows, whatever the image's size.
    """
    samples: list[list[Stored]] = [[] for _ in range(bands)]
    for box in spread_windows(height, width):
        stored = read(box)
        valid = validity(stored)
        for band in range(bands):
            values = stored[band] if valid is None else stored[band][valid[band]]
            if stored.dtype.kind == "f":
                values = values[np.isfinite(values)]
            samples[band].append(values.ravel())
    lows = []
    highs = []
    seen = 0
    for parts in samples:
        values = np.concatenate(parts)
        seen += values.size
        if not values.size:
            lows.append(float("nan"))
            highs.append(float("nan"))
            continue
        low, high = np.quantile(values, (TAIL, 1 - TAIL), method="nearest")
        lows.append(float(low))
        highs.append(float(high))
    return ValueStatistics(tuple(lows), tuple(highs), seen)


def fitted_range(
    seen: tuple[float, float], limits: tuple[float, float], whole: bool
) -> tuple[float, float]:
    """Return black and white for samples between `seen`, with headroom, within the dtype's limits.

    whole: stored values are whole numbers, and so are the ends. An image of one value gets a range
    of one level, or of one thousandth of the value, around it.
    """
    low, high = seen
    least = 1.0 if whole else max(abs(low), abs(high), 1e-6) * 1e-3
    room = max((high - low) * HEADROOM, least / 2)
    bottom = max(low - room, limits[0])
    top = min(high + room, limits[1])
    if whole:
        bottom = float(np.floor(bottom))
        top = float(np.ceil(top))
    return bottom, max(top, bottom + least)
