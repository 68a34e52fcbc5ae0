"""Encode an image that is whole in memory as PNG or JPEG, with its colour profile."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from storage.export.tiff_tiles import alpha_samples
from storage.zarr_format.published_image import PublishedImage

_START_OF_IMAGE = b"\xff\xd8"
_JFIF = b"\xff\xe0"
_APP2 = b"\xff\xe2"
# A JPEG segment holds 65533 bytes, of which the name and the two counters of a profile take 14.
_PROFILE_PART = 65533 - 14
# A PNG begins with a signature of 8 bytes and the chunk IHDR (length, name, 13 bytes, CRC), after
# which the profile stands.
_PNG_HEADER = 8 + 12 + 13
JPEG_SIDE = 65535
"""Longest side of a JPEG, px: its header counts in 16 bits."""


def read_rows(image: PublishedImage) -> NDArray[Any]:
    """Return level 0 as encoders take it: (H, W) of one band, else (H, W, C).

    It is read shard by shard.
    """
    finest = image.levels[0]
    channels, height, width = finest.shape
    rows = np.empty((height, width, channels), image.dtype)
    for row, col in finest.places():
        box = finest.box(row, col)
        pixels = image.read(0, box)
        rows[box.slices()] = pixels.transpose(1, 2, 0)
    return rows[..., 0] if channels == 1 else rows


def with_alpha(validity: PublishedImage, rows: NDArray[Any], *, multiplied: bool) -> NDArray[Any]:
    """Return the rows with their alpha as a last sample, 0 where a band is no measurement."""
    opacity = read_rows(validity)
    opacity = opacity.reshape(*opacity.shape[:2], -1).transpose(2, 0, 1)
    alpha = alpha_samples(opacity, str(rows.dtype))[..., None]
    colours = rows.reshape(*rows.shape[:2], -1)
    if multiplied:
        colours = _divided(colours, alpha)
    return np.ascontiguousarray(np.concatenate([colours, alpha], axis=2))


def _divided(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Return colours that were multiplied by alpha (associated) as PNG has them."""
    most = np.iinfo(colours.dtype).max
    share = np.maximum(alpha, 1) / most
    plain = np.rint(colours / share).clip(0, most).astype(colours.dtype)
    return np.where(alpha == 0, colours, plain)


def encode_png(rows: NDArray[Any], icc: bytes | None) -> list[memoryview | bytes]:
    """Return the PNG of (H, W) or (H, W, 2 to 4) uint8 or uint16 pixels, in parts.

    In parts, because it would have to be copied to become one.
    """
    encoded = memoryview(imagecodecs.png_encode(rows))
    if icc is None:
        return [encoded]
    header = encoded[:_PNG_HEADER]
    rest = encoded[_PNG_HEADER:]
    return [header, _png_profile(icc), rest]


def _png_profile(icc: bytes) -> bytes:
    """Return the chunk iCCP. Source: W3C PNG (third edition), section 11.3.2.3."""
    no_compression_but_zlib = b"\0"
    payload = b"ICC profile\0" + no_compression_but_zlib + zlib.compress(icc)
    named = b"iCCP" + payload
    length = struct.pack(">I", len(payload))
    checksum = struct.pack(">I", zlib.crc32(named))
    return length + named + checksum


def encode_jpeg(
    rows: NDArray[Any],
    icc: bytes | None,
    quality: int,
) -> list[memoryview | bytes]:
    """Return the JPEG of (H, W) or (H, W, 3) uint8 pixels, in parts; quality: 1 to 100."""
    encoded = memoryview(imagecodecs.jpeg8_encode(rows, level=quality))
    if icc is None:
        return [encoded]
    head = len(_START_OF_IMAGE)
    marker = bytes(encoded[head : head + 2])
    if marker == _JFIF:  # it comes directly after the start of the image
        length = int.from_bytes(bytes(encoded[head + 2 : head + 4]), "big")
        head += len(_JFIF) + length
    return [encoded[:head], _jpeg_profile(icc), encoded[head:]]


def _jpeg_profile(icc: bytes) -> bytes:
    """Return the segments APP2 of a profile. Source: ICC.1, annex B.4."""
    starts = range(0, len(icc), _PROFILE_PART)
    parts = [icc[start : start + _PROFILE_PART] for start in starts]
    segments = []
    for number, part in enumerate(parts, 1):
        place = bytes([number, len(parts)])
        payload = b"ICC_PROFILE\0" + place + part
        length = struct.pack(">H", 2 + len(payload))
        segments.append(_APP2 + length + payload)
    return b"".join(segments)
