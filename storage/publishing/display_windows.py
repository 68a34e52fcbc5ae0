"""Which values of a published image viewers show as black and white: percentiles of its pixels.

They are taken from the finest level that is small, so that the cost does not grow with the image.
The pixels decide them alone: whoever publishes the same image, and however often, gets the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from storage.publishing.pyramid_writer import Publication

# Longest side of the level that is looked at, px.
SIDE = 1024
# Share of the samples that may be darker than black, and brighter than white.
TAIL = 0.001

Window = tuple[float, float]


def display_windows(publication: Publication, *, together: bool) -> tuple[Window, ...] | None:
    """Return black and white of every band; None where no sample holds data.

    All of the image's shards are there. together: the bands are one picture in colour, and share
    black and white. A band without data has the window of the others.
    """
    number = _small_level(publication)
    bands = publication.levels[0].shape[0]
    found = [_window(publication, number, band) for band in range(bands)]
    seen = [window for window in found if window is not None]
    if not seen:
        return None
    of_all = (min(low for low, _ in seen), max(high for _, high in seen))
    return tuple(of_all if together or window is None else window for window in found)


def _small_level(publication: Publication) -> int:
    """Return the finest level of at most SIDE px, or the coarsest."""
    levels = publication.levels
    small = (number for number, level in enumerate(levels) if max(level.shape[1:]) <= SIDE)
    return next(small, len(levels) - 1)


def _window(publication: Publication, number: int, band: int) -> Window | None:
    """Return percentiles of the valid samples of a band; None where there are none."""
    samples = publication.read_band(number, band)
    values = samples[_valid(publication, number, band, samples)]
    if not values.size:
        return None
    low, high = (float(end) for end in np.quantile(values, (TAIL, 1 - TAIL), method="nearest"))
    if low < high:
        return low, high
    # One value only: viewers need a white above black.
    return low, low + (1.0 if samples.dtype.kind != "f" else max(abs(low), 1.0) * 1e-3)


def _valid(
    publication: Publication, number: int, band: int, samples: NDArray[np.generic]
) -> NDArray[np.bool_]:
    """Return which samples hold data."""
    valid = np.asarray(np.isfinite(samples))  # type: ignore[call-overload]
    if publication.nodata is not None:
        valid &= np.asarray(samples != samples.dtype.type(publication.nodata))
    if publication.validity is not None:
        valid &= publication.validity.read_band(number, band) != 0
    return valid
