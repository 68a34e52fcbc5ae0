"""Pixels that are decoded whole: of small JPEG, JPEG 2000 and interlaced PNG."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from storage.box import Box
from storage.byte_source import Data
from storage.errors import DamagedError, FormatError, human_bytes, one_line

if TYPE_CHECKING:
    from storage.image import Pixels

_CODECS = {
    "PNG": imagecodecs.png_decode,
    "JPEG": imagecodecs.jpeg8_decode,
    "JPEG 2000": imagecodecs.jpeg2k_decode,
}


class WholeDecoder:
    """Decode all pixels at the first window and keep them until `close`."""

    def __init__(
        self,
        path: str,
        kind: str,
        data: Data,
        shape: tuple[int, int, int],
        memory: int,
        max_bytes: int | None,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Decode nothing yet.

        memory: bytes that decoding takes, held to `max_bytes` (None: allowed). before: a check of
        the data.
        """
        self._path = path
        self._kind = kind
        self._data = data
        self._shape = shape
        self._before = before
        self._memory = memory
        self._max_bytes = max_bytes
        self._pixels: Pixels | None = None
        self._lock = threading.Lock()

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w); see `Decoder.read`."""
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decoded()
            pixels = self._pixels
        window = pixels[box.slices()]
        chosen = window[..., list(samples)]
        return np.ascontiguousarray(chosen.transpose(2, 0, 1))

    def close(self) -> None:
        """Drop the decoded pixels."""
        self._pixels = None

    def _decoded(self) -> Pixels:
        """Return the stored rows (H, W, S) and hold the decoder to the header."""
        if self._max_bytes is not None and self._memory > self._max_bytes:
            height, width, _ = self._shape
            raise FormatError(
                f"{self._path}: decoding a {self._kind} of this size takes "
                f"{human_bytes(self._memory)} of memory, the limit is "
                f"{human_bytes(self._max_bytes)}; convert it to a tiled TIFF "
                "(vips tiffsave in out.tif --tile), "
                f"or allow it with --max-pixels {height * width}"
            )
        if self._before:
            self._before()
        try:
            decoded: Pixels = np.asarray(_CODECS[self._kind](self._data))
        except Exception as error:  # codecs' own types, which all mean that the data is damaged
            raise DamagedError(
                f"{self._path}: the {self._kind} data is damaged: {one_line(error)}; get it again"
            ) from error
        pixels = decoded.reshape(*decoded.shape[:2], -1)
        if pixels.shape != self._shape:
            raise DamagedError(
                f"{self._path}: the header says {self._shape}, the decoder found {pixels.shape}; "
                "the file is damaged, get it again"
            )
        return pixels


class ArrayDecoder:
    """Windows of an array (H, W, S) that is mapped into memory."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w); see `Decoder.read`."""
        window = self._pixels[box.slices()]
        chosen = window[..., list(samples)].transpose(2, 0, 1)
        return chosen.astype(chosen.dtype.newbyteorder("="))

    def close(self) -> None:
        """Release the mapping."""
        self._pixels = self._pixels[:0]
