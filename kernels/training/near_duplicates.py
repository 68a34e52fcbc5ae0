"""Recognise pictures that share pixels, wherever in either of them: by hashes of small windows that
choose themselves.

Every 16 x 16 window has a hash; those hashes that fall into one of 4096 classes stand for the
picture. Which windows these are depends on their pixels alone, so that a crop has those of its
original (the idea of winnowing, Schleimer et al. 2003). Flat windows are left out: they look the
same everywhere. Equal pixels are recognised, whatever the file format; a picture that was resized,
recompressed or converted is not. numpy only.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

SIDE = 16
"""Side of a window, px."""
ONE_IN = 4096
"""Windows per hash that is kept, on average."""
# Different values that a window must hold in some channel to look like no other.
LEAST_VALUES = 16
# Hashes in common from which two pictures are said to share pixels: one may be chance, or a
# logo.
SHARED = 3
# Odd multipliers of the polynomial in x, in y and over channels, and those of the finaliser of
# SplitMix64.
_X = np.uint64(0x9E3779B97F4A7C15)
_Y = np.uint64(0xD1342543DE82EF95)
_C = np.uint64(0xF1357AEA2E62A9C5)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def window_hashes(pixels: NDArray[Any]) -> Hashes:
    """Return the hashes that stand for a picture (C, H, W) of any dtype, sorted, each once.

    A picture may be cut into pieces that overlap by SIDE - 1 px; the union of theirs is the same.
    """
    if min(pixels.shape[1:]) < SIDE:
        return np.zeros(0, np.uint64)
    values = np.zeros(pixels.shape[1:], np.uint64)
    for channel in pixels:
        values = values * _C + _bits(channel) + np.uint64(1)
    along_x = _rolled(values, _X)
    hashes = _mixed(_rolled(along_x.T, _Y).T)

    rows, cols = np.nonzero(hashes % np.uint64(ONE_IN) == 0)
    kept = []
    for y, x in zip(rows, cols, strict=True):
        window = pixels[:, y : y + SIDE, x : x + SIDE]
        if _distinct(window):
            kept.append(hashes[y, x])
    return np.unique(np.array(kept, np.uint64))


def smallest_hashes(hashes: Iterable[Hashes], most: int) -> Hashes:
    """Return the union of hashes, of more than `most` the smallest: pictures thinned alike stay
    comparable.
    """
    parts = [np.zeros(0, np.uint64), *hashes]
    union = np.unique(np.concatenate(parts))
    return union[:most]


def share_pixels(a: Hashes, b: Hashes) -> bool:
    """Tell whether two pictures have pixels in common, but for a patch small enough to hold SHARED
    - 1 hashes.
    """
    common = np.intersect1d(a, b)
    return len(common) >= SHARED


def to_text(hashes: Hashes) -> str:
    """Return hashes as base64."""
    data = hashes.astype("<u8").tobytes()
    return base64.b64encode(data).decode()


def from_text(text: str) -> Hashes:
    """Read what `to_text` wrote."""
    data = base64.b64decode(text)
    return np.frombuffer(data, "<u8").astype(np.uint64)


def _rolled(values: Hashes, multiplier: np.uint64) -> Hashes:
    """Return the polynomial hash of SIDE consecutive values along the last axis, modulo 2^64."""
    count = values.shape[-1] - SIDE + 1
    total = np.zeros((*values.shape[:-1], count), np.uint64)
    for i in range(SIDE):
        total = total * multiplier + values[..., i : i + count]
    return total


def _mixed(hashes: Hashes) -> Hashes:
    """Make every bit depend on all (the finaliser of SplitMix64, Steele et al. 2014)."""
    hashes = hashes ^ (hashes >> np.uint64(30))
    hashes = hashes * _MIX1
    hashes = hashes ^ (hashes >> np.uint64(27))
    hashes = hashes * _MIX2
    return np.asarray(hashes ^ (hashes >> np.uint64(31)))


def _bits(channel: NDArray[Any]) -> Hashes:
    """Return samples as whole numbers, floating ones by their bits."""
    if channel.dtype.kind == "f":
        channel = np.ascontiguousarray(channel).view(f"u{channel.dtype.itemsize}")
    return channel.astype(np.uint64)


def _distinct(window: NDArray[Any]) -> bool:
    """Tell whether a window (C, SIDE, SIDE) has enough values to look like no other."""
    values = max(len(np.unique(channel)) for channel in window)
    return values >= LEAST_VALUES
