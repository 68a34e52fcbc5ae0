"""How many pixels are known around a pixel: where a spline serves, and how scattered a mask is.
numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.bool_]
Counts = NDArray[np.int64]

# Where as many known pixels lie within NEAR px, in each direction, a spline through them knows more
# than a coarser level: 9 x 9 px of which a twentieth is known.
NEAR = 4
LEAST_NEAR = 4
AROUND = (2 * NEAR + 1) ** 2


def densely_known(known: Marks) -> Marks:
    """Return where a spline is better than a coarser picture: enough known pixels lie around.

    known: (C, h, w). A pixel counts NEAR px around it, and wants LEAST_NEAR known ones of 9 x 9, of
    as many as lie in the picture.
    """
    there = _sums(np.ones_like(known), NEAR)
    return np.asarray(_sums(known, NEAR) * AROUND >= LEAST_NEAR * there)


def scattered_share(windows: Iterable[Marks]) -> float | None:
    """Return the share of known pixels beside the known ones at the edges of what is unknown.

    windows: (C, h, w) known pixels, each. Pixels that are missing one by one leave the share that
    is known; holes leave nearly 1, however large they are. A known pixel weighs by the unknown ones
    within NEAR px. None where no known pixel has any.
    """
    weighted, weight = np.sum([_scattered(known) for known in windows], axis=0)
    return float(weighted / weight) if weight else None


def _scattered(known: Marks) -> tuple[float, float]:
    """Return the weighted sum of the shares of one window, and the sum of their weights."""
    beside = _sums(known, 1) - known
    places = _sums(np.ones_like(known), 1) - 1
    weight = np.where(known, _sums(~known, NEAR), 0)
    share = beside / np.maximum(places, 1)
    return float((share * weight).sum()), float(weight.sum())


def _sums(marks: Marks, reach: int) -> Counts:
    """Return how many pixels within `reach` px are marked, of those in the picture."""
    side = 2 * reach + 1
    before = 1 + reach
    padded = np.pad(marks.astype(np.int64), ((0, 0), (before, reach), (before, reach)))
    sums = padded.cumsum(axis=1).cumsum(axis=2)
    below = sums[:, side:, side:] - sums[:, side:, :-side]
    above = sums[:, :-side, side:] - sums[:, :-side, :-side]
    return np.asarray(below - above)
