"""What values an image uses: windows spread over it, in bounded reads, and the range for them.

Samples that use a small part of their dtype (12-bit cameras, reflectance, fluorescence) would
reach a network as nearly black. The range is taken from windows on an even lattice, so that two
looks at one image agree, and is a little wider than what was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.box import Box

Stored = NDArray[Any]
ReadSamples = Callable[[Box], tuple[Stored, NDArray[np.bool_]]]

# Windows that are looked at and their side, px: 64 x 64 x 128 x 128 samples of a band at most.
WINDOWS = 8
SIDE = 128
# The share of samples that may lie beyond either end, and the room beyond what was seen, as a
# part of the spread. Trials on real scenes: docs/decisions/values.md.
TAIL = 0.001
HEADROOM = 0.05


def spread_windows(height: int, width: int, most: int = WINDOWS) -> list[Box]:
    """Return windows on an even lattice over an image; the whole image where it is small.

    most: windows along a side. The same image has the same windows, and no two of them share a
    pixel.
    """
    rows = _places(height, most)
    cols = _places(width, most)
    return [Box(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in cols]


def _places(length: int, most: int) -> list[tuple[int, int]]:
    """Return up to `most` spans of at most SIDE px, evenly over a length."""
    if length <= most * SIDE:
        return [(lo, min(lo + SIDE, length)) for lo in range(0, length, SIDE)]
    gap = (length - SIDE) / (most - 1)
    firsts = [round(k * gap) for k in range(most)]
    return [(first, first + SIDE) for first in firsts]


def valid_samples(read: ReadSamples, boxes: list[Box]) -> list[Stored]:
    """Return the valid samples of each band in windows of an image, (N,) each.

    read: stored samples (C, h, w) of a box, and which of them are valid, (C, h, w) or (1, h, w)
    bool; what is no finite number never is. Memory is that of the windows, whatever the image's
    size.
    """
    parts: list[list[Stored]] = []
    for box in boxes:
        stored, valid = read(box)
        marks = np.broadcast_to(valid, stored.shape)
        if not parts:
            parts = [[] for _ in stored]
        for band, samples, known in zip(parts, stored, marks, strict=True):
            values = samples[known]
            band.append(values[np.isfinite(values)])
    return [np.concatenate(band) for band in parts]


def used_range(bands: list[Stored]) -> tuple[float, float] | None:
    """Return what the samples of all bands lie between, but for TAIL of each band's on either side.

    None where there are none.
    """
    ends = [np.quantile(band, (TAIL, 1 - TAIL), method="nearest") for band in bands if band.size]
    if not ends:
        return None
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def share_within(bands: list[Stored], values: tuple[float, float]) -> float:
    """Return the share of samples from black to white; 1 where there are none."""
    low, high = values
    inside = sum(int(((band >= low) & (band <= high)).sum()) for band in bands)
    count = sum(band.size for band in bands)
    return inside / count if count else 1.0


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
