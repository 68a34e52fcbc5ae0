"""Segments of LERC, whose own mask says which of their samples are none.

libtiff writes NaN so, and an alpha channel of nothing but full and empty: it is left out of the
samples then. Source: libtiff, tif_lerc.c (LERC_PARAMETERS, tag 50674).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

if TYPE_CHECKING:
    import tifffile
    from numpy.typing import NDArray

    from storage.image import Marks, Pixels

LERC = 34887
_PARAMETERS = 50674
_PLAIN = 0
_DEFLATE = 1
_ZSTD = 2


def decode_lerc(data: bytes, page: tifffile.TiffPage, samples: int) -> Pixels:
    """Return (h, w, samples) of a segment: NaN, or an alpha of 0, where its mask says none.

    samples: of a pixel in the segment. Raises ValueError for a mask that the samples have no value
    for.
    """
    decoded, masks = imagecodecs.lerc_decode(_unpacked(data, page), masks=True)
    pixels = _samples_last(decoded, masks)
    if masks is None:
        return pixels
    valid = _samples_last(masks, masks)
    if pixels.dtype.kind == "f":
        return np.where(valid, pixels, np.array(np.nan, pixels.dtype))
    if pixels.shape[2] == samples - 1:
        return np.concatenate([pixels, _alpha(valid, pixels.dtype)], axis=2)
    if valid.all():
        return pixels
    raise ValueError("a mask of whole numbers without an alpha channel, write it as a mask page")


def _unpacked(data: bytes, page: tifffile.TiffPage) -> bytes:
    """Undo the second compression that some segments have."""
    parameters = page.tags.valueof(_PARAMETERS)
    further = _PLAIN if parameters is None or np.ndim(parameters) == 0 else int(parameters[1])
    if further == _DEFLATE:
        return zlib.decompress(data)
    if further == _ZSTD:
        return bytes(imagecodecs.zstd_decode(data))
    return data


def _samples_last(array: NDArray[np.generic], masks: Marks | None) -> Pixels:
    """Return (h, w, n): bands with masks of their own stand first."""
    if array.ndim == 2:
        return array[..., np.newaxis]
    bands_first = masks is not None and masks.ndim == 3
    return array.transpose(1, 2, 0) if bands_first else array


def _alpha(valid: Marks, dtype: np.dtype[Any]) -> Pixels:
    most = np.array(np.iinfo(dtype).max, dtype)
    return np.where(valid[..., :1], most, np.array(0, dtype))
