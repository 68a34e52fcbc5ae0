"""The contact sheet of an evaluation: the middles of its pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Side of a picture on the sheet, px; images on it at most.
THUMB = 160
MOST_IMAGES = 4
GAP = 4


def strip_of(pictures: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the middles of pictures (C, H, W) of one scene side by side, RGB; the smaller ones
    are enlarged by replication.
    """
    height = max(picture.shape[1] for picture in pictures)
    parts = []
    for picture in pictures:
        thumb = _thumb(picture, height // picture.shape[1])
        parts.append(thumb)
        parts.append(np.full((3, thumb.shape[1], GAP), 255, np.uint8))
    return np.concatenate(parts[:-1], axis=2)


def _thumb(picture: NDArray[Any], factor: int) -> NDArray[np.uint8]:
    """Return the middle of a picture that is enlarged so many times, as three bytes a pixel."""
    large = picture.repeat(factor, 1).repeat(factor, 2)
    y, x = (max(length - THUMB, 0) // 2 for length in large.shape[1:])
    middle = large[:3, y : y + THUMB, x : x + THUMB]
    if len(middle) < 3:
        middle = np.repeat(middle[:1], 3, 0)
    return middle if middle.dtype == np.uint8 else (middle >> 8).astype(np.uint8)


def write_sheet(path: Path, strips: Sequence[NDArray[np.uint8]]) -> None:
    """Write the strips below each other: measured, every prior, what needs none, original."""
    from storage.export.small_image import write_image

    height = max(strip.shape[1] for strip in strips) + GAP
    width = max(strip.shape[2] for strip in strips)
    padded = []
    for strip in strips:
        below = (0, height - strip.shape[1])
        beside = (0, width - strip.shape[2])
        padded.append(np.pad(strip, ((0, 0), below, beside), constant_values=255))
    write_image(path, np.concatenate(padded, axis=1))
