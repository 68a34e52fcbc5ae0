"""The bytes of one zstd chunk: padded to its full size, little endian, with the checksum that zstd frames can carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs import zstd  # type: ignore[import-untyped]

from storage.zarr_meta import ZSTD_LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encode(part: NDArray[Any], shape: tuple[int, int]) -> bytes:
    """Return the stored bytes of a chunk (..., *shape) from its part inside the image, zeros beyond the edge."""
    stored = part.dtype.newbyteorder("<")
    if part.shape[-2:] != shape:
        whole = np.zeros((*part.shape[:-2], *shape), stored)
        whole[..., : part.shape[-2], : part.shape[-1]] = part
        part = whole
    return bytes(zstd.compress(np.ascontiguousarray(part, stored), ZSTD_LEVEL, True))


def decode(data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the chunk; raises ValueError when the bytes are not the ones that were written."""
    try:
        raw = zstd.decompress(data)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape)
