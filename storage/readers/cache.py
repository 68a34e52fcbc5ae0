"""Read cache: overlapping windows decode every tile or chunk of a file once, if needed lately."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from storage.box import Box
from storage.image import Reader, check_inside

if TYPE_CHECKING:
    from storage.image import Marks, Opacity, Pixels

    _Block = tuple[Pixels, Marks | None]

LIMIT = 128 << 20
"""Decoded bytes that a reader keeps.

A wavefront of tiles touches the chunks along a diagonal of the image: those of an RGB image of
80,000 x 80,000 px in chunks of 512 px fit.
"""
# Blocks are made of whole tiles or chunks of the file and are at least so large, px: fewer, larger
# requests.
_LEAST = 256


class CachedReader:
    """Read windows through another reader, block by block on the grid in which the file decodes.

    Where the file says nothing of such a grid (mapped or whole in memory) reads go straight
    through. Safe to call from several threads. Memory: `limit` bytes of blocks, and the blocks
    under one window.
    """

    def __init__(self, reader: Reader, limit: int = LIMIT) -> None:
        self.info = reader.info
        self.loaded = 0
        """Bytes of pixels that were read from the file so far.

        Over `info.nbytes` it is the read amplification.
        """
        self._reader = reader
        self._limit = limit
        self._kept: OrderedDict[tuple[int, int], _Block] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the delivered dtype, a fresh array; see `Reader.read`."""
        return self.read_valid(box)[0]

    def read_valid(self, box: Box) -> tuple[Pixels, Marks | None]:
        """Return pixels and which of them are valid; see `Reader.read_valid`."""
        check_inside(self.info, box)
        if self.info.grain is None:
            pixels, marks = self._reader.read_valid(box)
            self.loaded += pixels.nbytes
            return pixels, marks
        tall, wide = (-(-_LEAST // side) * side for side in self.info.grain)
        out = np.empty((self.info.channels, *box.shape), self.info.dtype)
        valid: Marks | None = None
        for row in range(box.y0 // tall, -(-box.y1 // tall)):
            for col in range(box.x0 // wide, -(-box.x1 // wide)):
                y0 = row * tall
                x0 = col * wide
                whole = Box(y0, x0, y0 + tall, x0 + wide)
                place = whole.clip(self.info.height, self.info.width)
                block, marks = self._block((row, col), place)
                part = place.intersect(box)
                in_block = part.shift(-place.y0, -place.x0).slices()
                in_window = part.shift(-box.y0, -box.x0).slices()
                out[(slice(None), *in_window)] = block[(slice(None), *in_block)]
                if marks is None:
                    continue
                if valid is None:
                    valid = np.ones(out.shape, bool)
                valid[(slice(None), *in_window)] = marks[(slice(None), *in_block)]
        return out, valid

    def opacity(self, box: Box) -> Opacity | None:
        """Return how opaque the pixels are, read anew; see `Reader.opacity`."""
        return self._reader.opacity(box)

    def close(self) -> None:
        """Release the blocks and the file."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0
        self._reader.close()

    def _block(self, key: tuple[int, int], place: Box) -> _Block:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        # Without the lock: other threads read others meanwhile.
        block = self._reader.read_valid(place)
        with self._lock:
            self.loaded += block[0].nbytes
            if key not in self._kept:  # another thread may have been faster
                self._kept[key] = block
                self._bytes += _nbytes(block)
            while self._bytes > self._limit and self._kept:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _nbytes(oldest)
        return block


def _nbytes(block: _Block) -> int:
    pixels, marks = block
    return pixels.nbytes + (0 if marks is None else marks.nbytes)
