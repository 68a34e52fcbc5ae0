"""Windows of an image on which a network is tried: those with most to see of a lattice of them, in
bounded reads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from orchestrator.arrays import Array
from orchestrator.job.fields.sections import InputSpec
from orchestrator.job.value_range import Values, stated_values
from orchestrator.measurement.input_file import equals, open_file
from orchestrator.measurement.windows import MeasuredWindow
from storage.box import Box
from storage.image import ImageInfo
from storage.readers.cache import CachedReader

ALONG = 4
"""Windows along a side of which the best are taken."""
LEAST_KNOWN = 0.5
"""Share of a window that has to hold data."""


def trial_windows(given: InputSpec, info: ImageInfo, channels: int, side: int) -> list[Array]:
    """Return windows (channels, side, side) float32 in [-1, 1], that with most to see first.

    given: with black and white in numbers, or None for the dtype's. Samples without data are filled
    with what is near; a smaller image is reflected. Bands beyond the network's channels are left
    out, missing ones repeated. Empty where nothing holds data.
    """
    values = Values.build(info.dtype, stated_values(given.values), count=info.channels)
    windows = list(_windows(given, info, values, channels, side))
    return sorted(windows, key=lambda window: -float(window.std()))


def _windows(
    given: InputSpec, info: ImageInfo, values: Values, channels: int, side: int
) -> Iterator[Array]:
    from kernels.resample import fill_unknown  # imports torch

    reader = CachedReader(open_file(given))
    y0, x0, y1, x1 = given.crop or (0, 0, info.height, info.width)

    def read(top: int, left: int, bottom: int, right: int) -> Array:
        stored, valid = reader.read_valid(Box(y0 + top, x0 + left, y0 + bottom, x0 + right))
        known = np.isfinite(stored)
        if valid is not None:
            known &= valid
        if given.nodata is not None:
            known &= ~equals(stored, given.nodata)
        return np.where(known, values.to_unit(stored), np.float32(np.nan))

    measured = MeasuredWindow(y1 - y0, x1 - x0, read)
    try:
        for y in _places(measured.height, side):
            for x in _places(measured.width, side):
                bands = measured.read(y, x, y + side, x + side)
                if np.isfinite(bands).mean() >= LEAST_KNOWN:
                    yield _matched(fill_unknown(bands), channels)
    finally:
        reader.close()


def _places(length: int, side: int) -> list[int]:
    """Return where windows begin along a side of an image."""
    room = max(length - side, 0)
    count = min(ALONG, room // side + 1)
    return [round(room * (k + 0.5) / count) for k in range(count)]


def _matched(bands: Array, channels: int) -> Array:
    """Return a window with the network's number of channels."""
    chosen = np.arange(channels) % len(bands)
    return np.ascontiguousarray(bands[chosen].clip(-1, 1))
