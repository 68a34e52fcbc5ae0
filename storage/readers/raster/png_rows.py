"""PNG pixels from top to bottom in bounded memory: the stream is inflated band by band.

The rows of a band are unfiltered by a codec: they are handed to it as a small PNG of their own,
after the row above as its first one, because filters look at no more than that (W3C PNG, section
9).
"""

from __future__ import annotations

import struct
import threading
import zlib
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from storage.box import Box
from storage.errors import DamagedError, one_line
from storage.readers.raster.png import SIGNATURE, PngHeader, check, pixel_data

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.byte_source import Data
    from storage.image import Pixels

# Rows that are inflated at a time, at most this many bytes of them.
_BAND_BYTES = 1 << 20
# Bytes per whole pixel -> (colour type, bits) of a PNG with pixels of that size, whose decoder
# gives the bytes back.
_CONTAINERS = {
    1: (0, 8),
    2: (4, 8),
    3: (2, 8),
    4: (6, 8),
    6: (2, 16),
    8: (6, 16),
}


class PngRowDecoder:
    """Read windows of a PNG without interlacing; reading upwards starts again at the top.

    Memory: two bands, whatever the image's size. The latest bands are kept for the next window.
    """

    def __init__(
        self,
        path: str,
        data: Data,
        header: PngHeader,
    ) -> None:
        self._path = path
        self._data = data
        self._header = header
        self._stretches = pixel_data(path, data)
        pixel_bits = header.samples * header.bits
        self._pixel_bytes = max(1, pixel_bits // 8)
        self._row_bytes = -(-header.width * pixel_bits // 8)
        filtered_row_bytes = self._row_bytes + 1
        rows = min(header.height, _BAND_BYTES // filtered_row_bytes)
        self._rows = max(1, rows)
        self._lock = threading.Lock()
        self._checked = False
        self._restart()

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w); see `Decoder.read`."""
        with self._lock:
            if not self._checked:
                check(self._path, self._data)
                self._checked = True
            dtype = np.uint16 if self._header.bits == 16 else np.uint8
            out = np.empty((len(samples), *box.shape), dtype)
            first_band = box.y0 // self._rows
            last_band = (box.y1 - 1) // self._rows
            for band in range(first_band, last_band + 1):
                self._fill(out, box, samples, band)
        return out

    def close(self) -> None:
        """Drop what was decoded."""
        self._kept.clear()

    def _fill(
        self,
        out: Pixels,
        box: Box,
        samples: tuple[int, ...],
        band: int,
    ) -> None:
        """Copy what a window holds of a band."""
        rows = self._band(band)
        y0 = band * self._rows
        first = max(box.y0 - y0, 0)
        last = box.y1 - y0
        pixels = self._unpacked(rows[first:last, :])[:, box.x0 : box.x1]
        top = max(y0 - box.y0, 0)
        bottom = top + len(pixels)
        for place, sample in enumerate(samples):
            out[place, top:bottom] = pixels[..., sample]

    def _restart(self) -> None:
        self._inflater = zlib.decompressobj()
        self._stretch = 0
        self._next = 0
        self._pending: bytes = b""
        self._above = bytes(self._row_bytes)
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def _band(self, band: int) -> NDArray[np.uint8]:
        """Return the unfiltered bytes (rows, bytes per row) of a band."""
        if band not in self._kept and band < self._next:
            self._restart()
        while band not in self._kept:
            rows_left = self._header.height - self._next * self._rows
            rows = self._inflated(min(self._rows, rows_left))
            latest = self._next - 1
            self._kept = {latest: self._kept[latest]} if latest in self._kept else {}
            self._kept[self._next] = rows
            self._above = rows[-1].tobytes()
            self._next += 1
        return self._kept[band]

    def _inflated(self, rows: int) -> NDArray[np.uint8]:
        missing = rows * (self._row_bytes + 1)
        parts: list[bytes] = []
        while missing:
            part = self._more(missing)
            parts.append(part)
            missing -= len(part)
        return self._unfiltered(b"".join(parts), rows)

    def _more(self, most: int) -> bytes:
        """Return at least one and at most `most` further bytes of the inflated stream."""
        while True:
            if not self._pending:
                if self._stretch == len(self._stretches) or self._inflater.eof:
                    raise self._damaged("the compressed pixels end before the last row")
                start, length = self._stretches[self._stretch]
                self._pending = self._data[start : start + length]
                self._stretch += 1
            try:
                inflated = self._inflater.decompress(self._pending, most)
            except zlib.error as error:
                raise self._damaged(one_line(error)) from error
            self._pending = self._inflater.unconsumed_tail
            if inflated:
                return inflated

    def _unfiltered(self, filtered: bytes, rows: int) -> NDArray[np.uint8]:
        """Undo the row filters with a codec, in a PNG whose first row is the one above."""
        colour, bits = _CONTAINERS[self._pixel_bytes]
        width = self._row_bytes // self._pixel_bytes
        no_filter = b"\0"
        body = zlib.compress(no_filter + self._above + filtered, 0)
        header = struct.pack(">IIBBBBB", width, rows + 1, bits, colour, 0, 0, 0)
        chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", body), _chunk(b"IEND", b"")]
        try:
            decoded = np.asarray(imagecodecs.png_decode(SIGNATURE + b"".join(chunks)))
        except Exception as error:  # codecs' own types, which all mean that the data is damaged
            raise self._damaged(one_line(error)) from error
        stored = decoded.astype(">u2") if bits == 16 else decoded
        unfiltered: NDArray[np.uint8] = stored.reshape(rows + 1, -1).view(np.uint8)
        return unfiltered[1:]

    def _unpacked(self, rows: NDArray[np.uint8]) -> Pixels:
        """Return the samples (rows, width, samples) of unfiltered bytes."""
        header = self._header
        shape = (len(rows), header.width, header.samples)
        if header.bits == 16:
            return rows.view(">u2").astype(np.uint16).reshape(shape)
        if header.bits < 8:
            # The leftmost sample stands in the highest bits of a byte.
            per_byte = 8 // header.bits
            shifts = np.arange(per_byte, dtype=np.uint8)[::-1] * header.bits
            mask = np.uint8((1 << header.bits) - 1)
            numbers: NDArray[np.uint8] = (rows[..., None] >> shifts) & mask
            rows = numbers.reshape(len(rows), -1)[:, : header.width]
        return rows.reshape(shape)

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(f"{self._path}: the PNG data is damaged: {what}; get it again")


def _chunk(name: bytes, payload: bytes) -> bytes:
    """Return a chunk: length, name, payload, checksum."""
    length = struct.pack(">I", len(payload))
    checksum = struct.pack(">I", zlib.crc32(name + payload))
    return length + name + payload + checksum
