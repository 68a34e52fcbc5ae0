"""Pictures that the generative test priors know: discs of all sizes, and rings larger than a tile.

Both look the same when they are reduced: sizes are spread evenly over octaves, so that a coarser
level of a picture is in the domain of a network that knows the finer one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Drawn larger by this and averaged, so that edges are as soft as a camera's.
OVERSAMPLED = 2


def discs(side: int, seed: int, smallest: float = 1.0, largest: float = 128.0) -> Array:
    """Return a picture (side, side) in [-1, 1] of opaque discs that hide each other.

    Radii in px, with a density of r^-3: every octave covers as much (dead leaves; Lee, Mumford and
    Huang 2001).
    """
    rng = np.random.default_rng([1, seed])
    fine = side * OVERSAMPLED
    picture = np.zeros((fine, fine), np.float32)
    hidden = np.zeros((fine, fine), bool)
    while not hidden.all():
        radius = OVERSAMPLED * _radius(rng, smallest, largest)
        y, x = rng.uniform(-radius, fine + radius, 2)
        shade = rng.uniform(-0.9, 0.9)
        _cover(picture, hidden, y, x, radius, 0.0, shade)
    return reduced(picture, OVERSAMPLED)


def rings(side: int, seed: int, smallest: float = 5.0, largest: float = 64.0) -> Array:
    """Return a picture (side, side) in [-1, 1] of bright rings on dark ground, the first on top.

    Radii in px, evenly over octaves; the width of a ring is an eighth of its radius.
    """
    rng = np.random.default_rng([2, seed])
    fine = side * OVERSAMPLED
    picture = np.full((fine, fine), -0.8, np.float32)
    hidden = np.zeros((fine, fine), bool)
    for _ in range(max(4, round(12 * (side / 128) ** 2))):
        radius = OVERSAMPLED * np.exp(rng.uniform(np.log(smallest), np.log(largest)))
        y, x = rng.uniform(-radius / 2, fine + radius / 2, 2)
        shade = rng.uniform(0.1, 0.9)
        _cover(picture, hidden, y, x, radius, radius * 7 / 8, shade)
    return reduced(picture, OVERSAMPLED)


def reduced(picture: Array, factor: int) -> Array:
    """Return the means of cells of factor x factor px; cells that do not fit are left out."""
    height = picture.shape[0] // factor
    width = picture.shape[1] // factor
    whole = picture[: height * factor, : width * factor]
    cells = whole.reshape(height, factor, width, factor)
    return cells.mean(axis=(1, 3), dtype=np.float32)


def _radius(rng: np.random.Generator, smallest: float, largest: float) -> float:
    """Draw from the density r^-3 between two radii."""
    u = rng.random()
    return float(((1 - u) / smallest**2 + u / largest**2) ** -0.5)


def _cover(
    picture: Array,
    hidden: NDArray[np.bool_],
    y: float,
    x: float,
    outer: float,
    inner: float,
    shade: float,
) -> None:
    """Paint a ring (a disc where inner is 0) on what nothing hides yet."""
    top = max(int(y - outer), 0)
    left = max(int(x - outer), 0)
    bottom = min(int(y + outer) + 2, len(picture))
    right = min(int(x + outer) + 2, len(picture))
    if bottom <= top or right <= left:
        return
    rows, cols = np.ogrid[top:bottom, left:right]
    square = (rows - y) ** 2 + (cols - x) ** 2
    covered = (square < outer**2) & (square >= inner**2)
    box = (slice(top, bottom), slice(left, right))
    free = covered & ~hidden[box]
    picture[box][free] = shade
    hidden[box] |= covered
