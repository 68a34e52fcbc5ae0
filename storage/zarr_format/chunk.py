"""The bytes of one zstd chunk: padded to its full size, little endian, with zstd's own checksum."""

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
# The sample that decides: so many stretches of a chunk, together this share of it.
_STRETCHES = 4
_SHARE = 32
# Smaller chunks are compressed without asking, bytes.
_LEAST = 1 << 16


def encode_chunk(
    part: NDArray[Any],
    shape: tuple[int, int],
    *,
    fast: bool = False,
) -> bytes:
    """Return the stored bytes of a chunk (..., *shape) from its part inside the image.

    Beyond the edge there are zeros. fast: for a copy that does not stay; otherwise only what is
    noise is stored so. The same samples give the same bytes. Every zstd decoder reads them,
    whatever level they were made with.
    """
    stored = part.dtype.newbyteorder("<")
    if part.shape[-2:] != shape:
        height, width = part.shape[-2:]
        padded = np.zeros((*part.shape[:-2], *shape), stored)
        padded[..., :height, :width] = part
        part = padded

    samples = np.ascontiguousarray(part, stored)
    level = FAST_LEVEL if fast or _is_noise(samples) else ZSTD_LEVEL
    with_checksum = True
    return bytes(zstd.compress(samples, level, with_checksum))


def decode_chunk(data: Any, out: NDArray[Any]) -> None:
    """Fill a C-contiguous little-endian array with a chunk.

    data: bytes or a view of them. Raises ValueError when these are not the chunk's bytes.
    """
    flat = out.data.cast("B")
    try:
        decoded = imagecodecs.zstd_decode(data, out=flat)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if len(decoded) != len(flat):
        raise ValueError(f"{len(decoded)} bytes of pixels instead of {len(flat)}")


def _is_noise(samples: NDArray[Any]) -> bool:
    """Tell from a sample whether compressing a chunk is hardly worth decompressing it."""
    flat = samples.data.cast("B")
    if len(flat) < _LEAST:
        return False
    step = len(flat) // _STRETCHES
    length = len(flat) // (_STRETCHES * _SHARE)
    starts = range(0, step * _STRETCHES, step)
    stretches = b"".join(flat[start : start + length] for start in starts)
    compressed = zstd.compress(stretches, ZSTD_LEVEL)
    return len(compressed) > _WORTH * len(stretches)
