"""Recognise pictures that share pixels, wherever in either of them: by hashes of small windows that
choose themselves.

Every 16 x 16 window has a hash; those whose hash falls into one of 4096 classes are the picture's
landmarks. Which windows these are depends on their pixels alone, so that a crop has those of its
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
"""Windows per landmark, on average."""
# Different values that a window must hold in some channel to look like no other.
LEAST_VALUES = 16
# Landmarks in common from which two pictures are said to share pixels: one may be chance, or a
# logo.
SHARED = 3
# Odd multipliers of the polynomial in x, in y and over channels, and those of the finaliser of
# SplitMix64.
_X = np.uint64(0x9E3779B97F4A7C15)
_Y = np.uint64(0xD1342543DE82EF95)
_C = np.uint64(0xF1357AEA2E62A9C5)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def landmarks(pixels: NDArray[Any]) -> Hashes:
    """Return the landmarks of the windows inside a picture (C, H, W) of any dtype, sorted, each
    once.

    A picture may be cut into pieces that overlap by SIDE - 1 px; the union of theirs is the same.
    """
    if min(pixels.shape[1:]) < SIDE:
        return np.zeros(0, np.uint64)
    values = np.zeros(pixels.shape[1:], np.uint64)
    for channel in pixels:
        values = values * _C + _bits(channel) + np.uint64(1)
    hashes = _mixed(_rolled(_rolled(values, _X).T, _Y).T)
    rows, cols = np.nonzero(hashes % np.uint64(ONE_IN) == 0)
    windows = (
        (hashes[y, x], pixels[:, y : y + SIDE, x : x + SIDE])
        for y, x in zip(rows, cols, strict=True)
    )
    kept = [value for value, window in windows if _distinct(window)]
    return np.unique(np.array(kept, np.uint64))


def reduced(hashes: Iterable[Hashes], most: int) -> Hashes:
    """Return the union of landmarks, of more than `most` the smallest: pictures thinned alike stay
    comparable.
    """
    found = [np.zeros(0, np.uint64), *hashes]
    return np.unique(np.concatenate(found))[:most]


def share_pixels(a: Hashes, b: Hashes) -> bool:
    """Tell whether two pictures have pixels in common, but for a patch small enough to hold SHARED
    - 1 landmarks.
    """
    return len(np.intersect1d(a, b)) >= SHARED


def to_text(hashes: Hashes) -> str:
    """Return landmarks as base64."""
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode()


def from_text(text: str) -> Hashes:
    """Read what `to_text` wrote."""
    return np.frombuffer(base64.b64decode(text), "<u8").astype(np.uint64)


def _rolled(values: Hashes, multiplier: np.uint64) -> Hashes:
    """Return the polynomial hash of SIDE consecutive values along the last axis, modulo 2^64."""
    count = values.shape[-1] - SIDE + 1
    total = np.zeros((*values.shape[:-1], count), np.uint64)
    for i in range(SIDE):
        total = total * multiplier + values[..., i : i + count]
    return total


def _mixed(hashes: Hashes) -> Hashes:
    """Make every bit depend on all (the finaliser of SplitMix64, Steele et al. 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * _MIX1
    hashes = (hashes ^ (hashes >> np.uint64(27))) * _MIX2
    return np.asarray(hashes ^ (hashes >> np.uint64(31)))


def _bits(channel: NDArray[Any]) -> Hashes:
    """Return samples as whole numbers, floating ones by their bits."""
    if channel.dtype.kind == "f":
        channel = np.ascontiguousarray(channel).view(f"u{channel.dtype.itemsize}")
    return channel.astype(np.uint64)


def _distinct(window: NDArray[Any]) -> bool:
    return max(len(np.unique(channel)) for channel in window) >= LEAST_VALUES
