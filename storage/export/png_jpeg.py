"""Encode an image that is whole in memory as PNG or JPEG, with its colour profile."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from storage.zarr_format.published_image import PublishedImage

# A JPEG segment holds 65533 bytes, of which the name and the two counters of a profile take 14.
_PROFILE_PART = 65533 - 14
# A PNG begins with a signature of 8 bytes and the chunk IHDR: length, name, 13 bytes, CRC. The
# profile comes directly after them.
_PNG_HEADER = 8 + 12 + 13
JPEG_SIDE = 65535
"""Longest side of a JPEG, px: its header counts in 16 bits."""


def read_rows(image: PublishedImage) -> NDArray[Any]:
    """Return level 0 as encoders take it, (H, W) of one band, else (H, W, C); read shard by shard."""
    channels, height, width = image.levels[0].shape
    rows = np.empty((height, width, channels), image.dtype)
    for row, col in image.levels[0].places():
        box = image.levels[0].box(row, col)
        rows[box.slices()] = image.read(0, box).transpose(1, 2, 0)
    return rows[..., 0] if channels == 1 else rows


def encode_png(rows: NDArray[Any], icc: bytes | None) -> list[memoryview | bytes]:
    """Return the PNG of (H, W) or (H, W, 3) uint8 or uint16 pixels, in parts: it is not copied once
    more.
    """
    encoded = memoryview(imagecodecs.png_encode(rows))
    if icc is None:
        return [encoded]
    chunk = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc)
    profile = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return [encoded[:_PNG_HEADER], profile, encoded[_PNG_HEADER:]]


def encode_jpeg(rows: NDArray[Any], icc: bytes | None, quality: int) -> list[memoryview | bytes]:
    """Return the JPEG of (H, W) or (H, W, 3) uint8 pixels, in parts; quality: 1 to 100."""
    encoded = memoryview(imagecodecs.jpeg8_encode(rows, level=quality))
    if icc is None:
        return [encoded]
    parts = [icc[i : i + _PROFILE_PART] for i in range(0, len(icc), _PROFILE_PART)]
    segments = b"".join(
        b"\xff\xe2"
        + struct.pack(">H", len(part) + 16)
        + b"ICC_PROFILE\0"
        + bytes([number, len(parts)])
        + part
        for number, part in enumerate(parts, 1)
    )
    head = 2  # start of image; a JFIF segment comes directly after it
    if bytes(encoded[2:4]) == b"\xff\xe0":
        head += 2 + int.from_bytes(bytes(encoded[4:6]), "big")
    return [encoded[:head], segments, encoded[head:]]
