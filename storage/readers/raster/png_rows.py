"""PNG pixels from top to bottom in bounded memory: the stream is inflated band by band, whatever
the image's size.

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
_CONTAINERS = {1: (0, 8), 2: (4, 8), 3: (2, 8), 4: (6, 8), 6: (2, 16), 8: (6, 16)}


class PngRowDecoder:
    """Read windows of a PNG without interlacing; reading upwards starts again at the top.

    Memory: two bands, whatever the image's size. The latest bands are kept for the next window.
    """

    def __init__(self, path: str, data: Data, header: PngHeader) -> None:
        self._path = path
        self._data = data
        self._header = header
        self._pieces = pixel_data(path, data)
        bits = header.samples * header.bits
        self._pixel = max(1, bits // 8)
        self._row = -(-header.width * bits // 8)
        self._rows = max(1, min(header.height, _BAND_BYTES // (self._row + 1)))
        self._lock = threading.Lock()
        self._checked = False
        self._restart()

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w); see `Decoder.read`."""
        with self._lock:
            if not self._checked:
                check(self._path, self._data)
                self._checked = True
            out = np.empty(
                (len(samples), *box.shape), np.uint16 if self._header.bits == 16 else np.uint8
            )
            for band in range(box.y0 // self._rows, (box.y1 - 1) // self._rows + 1):
                rows = self._band(band)
                y0 = band * self._rows
                part = self._unpacked(rows[max(box.y0 - y0, 0) : box.y1 - y0, :])[
                    :, box.x0 : box.x1
                ]
                top = max(y0 - box.y0, 0)
                for place, sample in enumerate(samples):
                    out[place, top : top + len(part)] = part[..., sample]
        return out

    def close(self) -> None:
        """Drop what was decoded."""
        self._kept.clear()

    def _restart(self) -> None:
        self._inflater = zlib.decompressobj()
        self._piece = 0
        self._next = 0
        self._pending: bytes = b""
        self._above = bytes(self._row)
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def _band(self, band: int) -> NDArray[np.uint8]:
        """Return the unfiltered bytes (rows, bytes per row) of a band."""
        if band not in self._kept and band < self._next:
            self._restart()
        while band not in self._kept:
            rows = self._inflated(min(self._rows, self._header.height - self._next * self._rows))
            self._kept = {
                number: kept for number, kept in self._kept.items() if number == self._next - 1
            }
            self._kept[self._next] = rows
            self._above = rows[-1].tobytes()
            self._next += 1
        return self._kept[band]

    def _inflated(self, rows: int) -> NDArray[np.uint8]:
        wanted = rows * (self._row + 1)
        parts: list[bytes] = []
        while wanted:
            part = self._more(wanted)
            parts.append(part)
            wanted -= len(part)
        return self._unfiltered(b"".join(parts), rows)

    def _more(self, wanted: int) -> bytes:
        """Return at least one and at most `wanted` further bytes of the inflated stream."""
        while True:
            if not self._pending:
                if self._piece == len(self._pieces) or self._inflater.eof:
                    raise self._damaged("the compressed pixels end before the last row")
                start, length = self._pieces[self._piece]
                self._pending = self._data[start : start + length]
                self._piece = self._piece + 1
            try:
                found = self._inflater.decompress(self._pending, wanted)
            except zlib.error as error:
                raise self._damaged(one_line(error)) from error
            self._pending = self._inflater.unconsumed_tail
            if found:
                return found

    def _unfiltered(self, filtered: bytes, rows: int) -> NDArray[np.uint8]:
        """Undo the row filters with a codec, in a PNG whose first row is the one above."""
        colour, bits = _CONTAINERS[self._pixel]
        width = self._row // self._pixel
        body = zlib.compress(b"\0" + self._above + filtered, 0)
        header = struct.pack(">IIBBBBB", width, rows + 1, bits, colour, 0, 0, 0)
        stream = SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
        try:
            found = np.asarray(imagecodecs.png_decode(stream))
        except (
            Exception
        ) as error:  # codecs raise their own types, which all mean that the data is damaged
            raise self._damaged(one_line(error)) from error
        stored = found.astype(">u2") if bits == 16 else found
        unfiltered: NDArray[np.uint8] = stored.reshape(rows + 1, -1).view(np.uint8)
        return unfiltered[1:]

    def _unpacked(self, rows: NDArray[np.uint8]) -> Pixels:
        """Return the samples (rows, width, samples) of unfiltered bytes."""
        header = self._header
        if header.bits == 16:
            return (
                rows.view(">u2").astype(np.uint16).reshape(len(rows), header.width, header.samples)
            )
        if header.bits < 8:
            per_byte = 8 // header.bits
            shifts = np.arange(per_byte, dtype=np.uint8)[::-1] * header.bits
            parts: NDArray[np.uint8] = (rows[..., None] >> shifts) & np.uint8(
                (1 << header.bits) - 1
            )
            rows = parts.reshape(len(rows), -1)[:, : header.width]
        return rows.reshape(len(rows), header.width, header.samples)

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(f"{self._path}: the PNG data is damaged: {what}; get it again")


def _chunk(name: bytes, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))
        + name
        + payload
        + struct.pack(">I", zlib.crc32(name + payload))
    )
