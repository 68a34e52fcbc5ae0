"""Enlarge and complete pictures for warm starts; one (C, h, w) numpy picture at a time, so never
batch-dependent.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Array = NDArray[np.float32]


def bicubic_upsample(picture: Array, scale: int) -> Array:
    """Enlarge a (C, h, w) picture by an integer scale with Keys' bicubic kernel (a = -0.75),
    half-pixel centres.
    """
    if scale == 1:
        return picture
    tensor = torch.from_numpy(np.ascontiguousarray(picture))[None]
    enlarged = F.interpolate(
        tensor,
        scale_factor=scale,
        mode="bicubic",
        align_corners=False,
    )
    return enlarged[0].numpy()


def fill_unknown(picture: Array) -> Array:
    """Fill a (C, h, w) picture's NaN pixels with the average of the known ones near them, coarse to
    fine.

    The picture is halved with means over known pixels until nothing is unknown, then enlarged back
    into the holes. A picture without a known pixel is filled with 0, mid-grey.
    """
    unknown = np.isnan(picture)
    if not unknown.any():
        return picture
    if unknown.all():
        return np.zeros_like(picture)
    blank = unknown.all(axis=(1, 2))
    if blank.any():
        filled = np.zeros_like(picture)
        filled[~blank] = fill_unknown(picture[~blank])
        return filled
    height, width = picture.shape[1:]
    coarse = fill_unknown(_halved(picture))
    enlarged = bicubic_upsample(coarse, 2)
    smooth = enlarged[:, :height, :width]
    return np.where(unknown, smooth, picture).astype(np.float32)


def _halved(picture: Array) -> Array:
    """Return means over the known pixels of 2 x 2 blocks (NaN where a block has none), edges
    repeated to even sizes.
    """
    channels, height, width = picture.shape
    odd = ((0, 0), (0, height % 2), (0, width % 2))
    even = np.pad(picture, odd, mode="edge")
    rows = even.shape[1] // 2
    cols = even.shape[2] // 2
    blocks = even.reshape(channels, rows, 2, cols, 2)

    known = ~np.isnan(blocks)
    total = np.where(known, blocks, 0).sum(axis=(2, 4), dtype=np.float64)
    count = known.sum(axis=(2, 4))
    mean = total / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan).astype(np.float32)
