"""TIFF pixels by windows: only the tiles or strips under a window are read and decoded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from storage import tiff
from storage.box import Box
from storage.errors import DamagedError, one_line
from storage.image import ImageInfo, check_inside

if TYPE_CHECKING:
    from storage.image import Pixels


class TiffReader:
    """Read windows of a checked TIFF page.

    Memory: the window and the segments under it. The segments of the latest window are kept for the next one, so that
    reading bands from top to bottom decodes every strip once, whatever its height.
    """

    info: ImageInfo

    def __init__(self, path: str) -> None:
        self._path = path
        self._open = contextlib.ExitStack()
        self._page, self.info = self._open.enter_context(tiff.opened(path))
        self._fd: int = self._page.parent.filehandle.fileno()
        self._planar = int(self._page.planarconfig) == 2 and self.info.channels > 1
        self._tall, self._wide = tiff.segment_shape(self._page)
        self._down, self._across = -(-self.info.height // self._tall), -(-self.info.width // self._wide)
        self._extra: dict[str, Any] = {}
        if tiff.is_jpeg(self._page):
            self._extra = {"jpegtables": self._page.jpegtables, "jpegheader": self._page.jpegheader}
        self._recent: dict[int, Pixels] = {}

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the stored dtype; see `Reader.read`."""
        check_inside(self.info, box)
        out = np.empty((self.info.channels, *box.shape), self.info.dtype)
        recent, used = self._recent, {}
        for index, plane, place in self._segments(box):
            segment = recent.get(index)
            used[index] = segment = self._decode(index) if segment is None else segment
            part = place.intersect(box)
            source = segment[part.shift(-place.y0, -place.x0).slices()]
            target = out[(plane, *part.shift(-box.y0, -box.x0).slices())]
            target[...] = source.transpose(2, 0, 1)
        self._recent = used
        return out

    def close(self) -> None:
        """Close the file."""
        self._recent = {}
        self._open.close()

    def _segments(self, box: Box) -> Iterator[tuple[int, slice, Box]]:
        """Yield (index in the file, channels, place in the image) of the segments under a window."""
        rows = range(box.y0 // self._tall, -(-box.y1 // self._tall))
        columns = range(box.x0 // self._wide, -(-box.x1 // self._wide))
        for plane in range(self.info.channels if self._planar else 1):
            channels = slice(plane, plane + 1) if self._planar else slice(None)
            for row in rows:
                for col in columns:
                    y0, x0 = row * self._tall, col * self._wide
                    place = Box(y0, x0, y0 + self._tall, x0 + self._wide).clip(self.info.height, self.info.width)
                    yield (plane * self._down + row) * self._across + col, channels, place

    def _decode(self, index: int) -> Pixels:
        """Return the pixels of one tile or strip, (h, w, samples), at least the part inside the image."""
        name = f"{'tile' if self._page.is_tiled else 'strip'} {index} of {len(self._page.dataoffsets)}"
        data = os.pread(self._fd, self._page.databytecounts[index], self._page.dataoffsets[index])
        if self._extra and self._page.jpegheader is None:
            tiff.require_whole_jpeg(self._path, name, data)
        try:
            segment = self._page.decode(data, index, **self._extra)[0]
        except Exception as error:  # codecs raise their own types, which all mean that the data is damaged
            raise DamagedError(f"{self._path}: {name} cannot be decoded: {one_line(error)}; get it again") from error
        if segment is None or segment.dtype != self.info.dtype:
            raise DamagedError(f"{self._path}: {name} does not decode to {self.info.dtype} pixels; get it again")
        return np.asarray(segment[0])


class MappedReader:
    """Read windows of an uncompressed, contiguous TIFF page through the page cache."""

    info: ImageInfo

    def __init__(self, path: str) -> None:
        with tiff.opened(path) as (page, self.info):
            dtype = np.dtype(self.info.dtype).newbyteorder(page.parent.byteorder)
            planar = int(page.planarconfig) == 2
            channels, height, width = self.info.shape
            shape = (channels, height, width) if planar else (height, width, channels)
            pixels = np.memmap(path, dtype, "r", int(page.dataoffsets[0]), shape)
        self._pixels: Pixels = pixels if planar else pixels.transpose(2, 0, 1)

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the stored dtype; see `Reader.read`."""
        check_inside(self.info, box)
        window = self._pixels[(slice(None), *box.slices())]
        return np.array(window, self.info.dtype, order="C")

    def close(self) -> None:
        """Release the mapping."""
        self._pixels = np.empty((0, 0, 0), self.info.dtype)


def open_tiff(path: str) -> TiffReader | MappedReader:
    """Open a TIFF file with the reader that fits its layout."""
    with tiff.opened(path) as (page, _):
        contiguous = bool(page.is_memmappable)
    return MappedReader(path) if contiguous else TiffReader(path)
