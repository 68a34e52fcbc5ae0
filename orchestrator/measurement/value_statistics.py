"""What values an image uses: windows spread over it, in bounded reads, and the range for them.

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
ReadSamples = Callable[[Box], tuple[Stored, NDArray[np.bool_]]]

# Windows that are looked at and their side, px: 64 x 64 x 128 x 128 samples of a band at most.
WINDOWS = 8
SIDE = 128
# The share of samples that may lie beyond either end, and the room beyond what was seen, as a
# part of the spread. Trials on real scenes: docs/decisions/values.md.
TAIL = 0.001
HEADROOM = 0.25
# How far a range follows single samples beyond what most of them use, as a part of the spread: both
# ends together.
REACH = 1.5
# A value stands apart that lies farther from all others than this many times what they spread.
APART = 2.0
# Samples that there must be besides it.
FEWEST = 64
# Levels of the narrowest range of whole numbers: less is their rounding.
LEAST_LEVELS = 16.0


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


@dataclass(frozen=True, slots=True)
class BandLook:
    """What the valid samples of a band, or of several, lie between, stored values."""

    used: tuple[float, float]
    """But for TAIL of them on either side; all, where the others are of one value."""
    ends: tuple[float, float]
    """All that were seen."""
    apart: tuple[float, ...] = ()
    """Values far away from all others that many samples have, as one that stands for no data: they
    are left out.
    """


def look_at(samples: Stored) -> BandLook | None:
    """Return what samples lie between; None where there are none."""
    if not samples.size:
        return None
    apart = []
    for extreme in (samples.min(), samples.max()):
        rest = samples[samples != extreme]
        if _stands_apart(float(extreme), samples, rest):
            apart.append(float(extreme))
            samples = rest
    least, low, high, most = _quantiles(samples, (0, TAIL, 1 - TAIL, 1))
    if low == high:  # a few bright spots on black: they are the picture
        low, high = least, most
    return BandLook((low, high), (least, most), tuple(apart))


def _stands_apart(value: float, samples: Stored, rest: Stored) -> bool:
    """Tell whether a value that many samples have lies farther from all others than they spread."""
    if samples.size - rest.size <= TAIL * samples.size or rest.size < FEWEST:
        return False
    low, high = _quantiles(rest, (TAIL, 1 - TAIL))
    gap = max(float(rest.min()) - value, value - float(rest.max()))
    return high > low and gap > APART * (high - low)


def _quantiles(samples: Stored, marks: tuple[float, ...]) -> list[float]:
    return [float(value) for value in np.quantile(samples, marks, method="nearest")]


def of_all_bands(looks: list[BandLook]) -> BandLook:
    """Return what the samples of several bands lie between."""
    return BandLook(
        used=(min(look.used[0] for look in looks), max(look.used[1] for look in looks)),
        ends=(min(look.ends[0] for look in looks), max(look.ends[1] for look in looks)),
        apart=tuple(sorted({value for look in looks for value in look.apart})),
    )


def share_within(bands: list[Stored], values: tuple[float, float]) -> float:
    """Return the share of samples from black to white; 1 where there are none."""
    low, high = values
    inside = sum(int(((band >= low) & (band <= high)).sum()) for band in bands)
    count = sum(band.size for band in bands)
    return inside / count if count else 1.0


def fitted_range(look: BandLook, limits: tuple[float, float], whole: bool) -> tuple[float, float]:
    """Return black and white for samples, with headroom, within the dtype's limits.

    Of what lies beyond most samples (bright spots, but hot pixels too) as much is held as leaves
    most of them a third of the range. whole: stored values are whole numbers, and so are the
    ends. An image of one value gets a range of some levels, or of one thousandth of the value,
    around it.
    """
    low, high = look.used
    least = LEAST_LEVELS if whole else max(abs(low), abs(high), 1e-6) * 1e-3
    spread = high - low
    room = max(spread * HEADROOM, least / 2)
    below = low - look.ends[0]
    above = look.ends[1] - high
    followed = min(1.0, REACH * spread / max(below + above, 1e-300))
    bottom = max(low - followed * below - room, limits[0])
    top = min(high + followed * above + room, limits[1])
    if whole:
        bottom = float(np.floor(bottom))
        top = float(np.ceil(top))
    if top - bottom >= least:
        return bottom, top
    # At an end of the dtype: all of the room lies on the other side.
    return (bottom, bottom + least) if bottom + least <= limits[1] else (top - least, top)
