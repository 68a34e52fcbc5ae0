"""Windows of a measurement: reflected beyond the image's edge, bands matched to the network's
channels. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.arrays import Array

ReadWindow = Callable[[int, int, int, int], Array]


def reflect(start: int, stop: int, length: int) -> NDArray[np.int64]:
    """Return the indices [start, stop) folded into [0, length) by half-sample reflection (... 1 0 |
    0 1 2 ...).
    """
    folded = np.arange(start, stop) % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """A level's measurement as an endless image: (C, h, w) float32 in [-1, 1], NaN
    where unknown.
    """

    height: int
    width: int
    read_inside: ReadWindow
    """Reads y0, x0, y1, x1 inside the image."""

    def read(self, y0: int, x0: int, y1: int, x1: int) -> Array:
        """Read a window that may reach beyond the image; memory is bounded by the window."""
        rows = reflect(y0, y1, self.height)
        cols = reflect(x0, x1, self.width)
        top = int(rows.min())
        left = int(cols.min())
        inside = self.read_inside(top, left, int(rows.max()) + 1, int(cols.max()) + 1)
        if inside.shape[1:] == (y1 - y0, x1 - x0) and rows[0] == top and cols[0] == left:
            return inside
        return np.ascontiguousarray(inside[:, rows - top][:, :, cols - left])


def to_channels(bands: Array, channels: int) -> Array:
    """Replicate one band to `channels`; other counts must match already."""
    return np.repeat(bands, channels, axis=0) if bands.shape[0] == 1 and channels != 1 else bands
