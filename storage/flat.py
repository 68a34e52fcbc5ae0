"""Encode an image that is whole in memory as PNG or JPEG, with its colour profile."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from storage import png

# A JPEG segment holds 65533 bytes, of which the name and the two counters of a profile take 14.
_PROFILE_PART = 65533 - 14
JPEG_SIDE = 65535
"""Longest side of a JPEG, px: its header counts in 16 bits."""


def encode_png(pixels: NDArray[Any], icc: bytes | None) -> bytes:
    """Return the PNG of (C, H, W) uint8 or uint16 pixels with 1 or 3 bands."""
    encoded = bytes(imagecodecs.png_encode(_rows(pixels)))
    if icc is None:
        return encoded
    end_of_header = len(png.SIGNATURE) + 12 + 13  # IHDR: length, name, 13 bytes, CRC
    chunk = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc)
    profile = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return encoded[:end_of_header] + profile + encoded[end_of_header:]


def encode_jpeg(pixels: NDArray[Any], icc: bytes | None, quality: int) -> bytes:
    """Return the JPEG of (C, H, W) uint8 pixels with 1 or 3 bands; quality: 1 to 100."""
    encoded = bytes(imagecodecs.jpeg8_encode(_rows(pixels), level=quality))
    if icc is None:
        return encoded
    parts = [icc[i : i + _PROFILE_PART] for i in range(0, len(icc), _PROFILE_PART)]
    segments = b"".join(
        b"\xff\xe2" + struct.pack(">H", len(part) + 16) + b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part
        for number, part in enumerate(parts, 1)
    )
    head = 2  # start of image; a JFIF segment comes directly after it
    if encoded[2:4] == b"\xff\xe0":
        head += 2 + int.from_bytes(encoded[4:6], "big")
    return encoded[:head] + segments + encoded[head:]


def _rows(pixels: NDArray[Any]) -> NDArray[Any]:
    # .copy(): C order with plain strides, also at 1x1
    return pixels[0].copy() if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy()
