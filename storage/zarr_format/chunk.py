"""The bytes of one zstd chunk: padded to its full size, little endian, with the checksum that zstd
frames can carry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from numcodecs import zstd  # type: ignore[import-untyped]

from storage.zarr_format.zarr_json import FAST_LEVEL, ZSTD_LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Noise is what zstd makes less than an eighth smaller.
_WORTH = 8 / 9
# The sample that decides: so many stretches of a chunk, together this share of it, at least so many
# bytes.
_STRETCHES = 4
_SHARE = 32
_LEAST = 1 << 16


def encode_chunk(part: NDArray[Any], shape: tuple[int, int], *, fast: bool = False) -> bytes:
    """Return the stored bytes of a chunk (..., *shape) from its part inside the image, zeros beyond
    the edge.

    fast: for a copy that does not stay; otherwise only what is noise is stored so. The same samples
    give the same bytes. Every zstd decoder reads them, whatever level they were made with.
    """
    stored = part.dtype.newbyteorder("<")
    if part.shape[-2:] != shape:
        whole = np.zeros((*part.shape[:-2], *shape), stored)
        whole[..., : part.shape[-2], : part.shape[-1]] = part
        part = whole
    whole = np.ascontiguousarray(part, stored)
    return bytes(zstd.compress(whole, FAST_LEVEL if fast or _is_noise(whole) else ZSTD_LEVEL, True))


def decode_chunk(data: Any, out: NDArray[Any]) -> None:
    """Fill a C-contiguous little-endian array with a chunk; raises ValueError when these are not
    its bytes.

    data: bytes or a view of them.
    """
    flat = out.data.cast("B")
    try:
        found = imagecodecs.zstd_decode(data, out=flat)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if len(found) != len(flat):
        raise ValueError(f"{len(found)} bytes of pixels instead of {len(flat)}")


def _is_noise(whole: NDArray[Any]) -> bool:
    """Tell from a sample whether compressing a chunk is hardly worth decompressing it."""
    flat = whole.data.cast("B")
    if len(flat) < _LEAST:
        return False
    step = len(flat) // _STRETCHES
    length = len(flat) // (_STRETCHES * _SHARE)
    sample = b"".join(flat[start : start + length] for start in range(0, step * _STRETCHES, step))
    return len(zstd.compress(sample, ZSTD_LEVEL)) > _WORTH * len(sample)
