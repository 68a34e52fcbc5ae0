"""TIFF pixels by windows: only the tiles or strips under a window are read and decoded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.box import Box
from storage.errors import DamagedError, FormatError, one_line
from storage.image import EVERYTHING, Selection
from storage.limits import MAX_PIXELS
from storage.readers.common.sample_conversion import ConvertingReader, Decoder
from storage.readers.tiff import describe, geotags

if TYPE_CHECKING:
    import tifffile

    from storage.byte_source import ByteSource
    from storage.image import Pixels
    from storage.readers.tiff.describe import Checked

# Of segments that are kept although the next window in reading order does not need them, bytes.
_KEPT_BYTES = 16 << 20


def open_tiff(
    path: str, selection: Selection = EVERYTHING, *, max_pixels: int = MAX_PIXELS
) -> ConvertingReader:
    """Open a TIFF file with the decoder that fits its layout."""
    found = describe.open_checked(path, selection, max_pixels=max_pixels)
    return ConvertingReader(found.info, _PagesDecoder(found), found.conversion)


class _PagesDecoder:
    """The samples of one page, or of one page per channel."""

    def __init__(self, found: Checked) -> None:
        self._found = found
        self._each = int(found.pages[0].samplesperpixel)
        self._decoders: list[Decoder] = [
            MappedPageDecoder(found.source, page)
            if describe.is_mapped(found.source, page)
            else PageDecoder(found, page)
            for page in found.pages
        ]

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        if len(self._decoders) == 1:
            return self._decoders[0].read(box, samples)
        parts = [
            self._decoders[sample // self._each].read(box, (sample % self._each,))
            for sample in samples
        ]
        return np.concatenate(parts)

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.close()
        self._found.close()


class PageDecoder:
    """Read windows of a checked TIFF page.

    Memory: the window, a segment, and what is kept of the latest window for the next one: segments
    that it has cut at its bottom, so that bands from top to bottom decode every strip once,
    whatever its height; and a few more.
    """

    def __init__(self, found: Checked, page: tifffile.TiffPage) -> None:
        self._path = found.info.path
        self._page = page
        self._source = found.source
        self._samples = int(page.samplesperpixel)
        self._planar = int(page.planarconfig) == 2 and self._samples > 1
        self._height = int(page.imagelength)
        self._width = int(page.imagewidth)
        self._tall, self._wide = describe.segment_shape(page)
        self._down = -(-self._height // self._tall)
        self._across = -(-self._width // self._wide)
        self._nodata, _ = geotags.read_nodata(page, found.info.dtype)
        self._extra: dict[str, Any] = {}
        if describe.is_jpeg(page):
            self._extra = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        self._recent: dict[int, Pixels] = {}

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w) in the page's dtype; see `Decoder.read`."""
        out = np.empty((len(samples), *box.shape), self._page.dtype)
        recent = self._recent
        used = {}
        held = 0
        for index, chosen, place in self._segments(box, samples):
            segment = recent.get(index)
            segment = self._decode(index, place) if segment is None else segment
            cut = place.y1 > box.y1 or (self._page.is_tiled and place.x1 > box.x1)
            if cut or held + segment.nbytes <= _KEPT_BYTES:
                used[index] = segment
                held += segment.nbytes
            part = place.intersect(box)
            source = segment[part.shift(-place.y0, -place.x0).slices()]
            target = part.shift(-box.y0, -box.x0).slices()
            for row, sample in chosen:
                out[(row, *target)] = source[..., sample]
        self._recent = used
        return out

    def close(self) -> None:
        """Drop the decoded segments."""
        self._recent = {}

    def _segments(
        self, box: Box, samples: tuple[int, ...]
    ) -> Iterator[tuple[int, list[tuple[int, int]], Box]]:
        """Yield (index in the file, (row of the result, sample in the segment), place) of what is
        under a window.
        """
        rows = range(box.y0 // self._tall, -(-box.y1 // self._tall))
        columns = range(box.x0 // self._wide, -(-box.x1 // self._wide))
        planes = (
            [(s, [(row, 0)]) for row, s in enumerate(samples)]
            if self._planar
            else [(0, list(enumerate(samples)))]
        )
        for plane, chosen in planes:
            for row in rows:
                for col in columns:
                    y0 = row * self._tall
                    x0 = col * self._wide
                    place = Box(y0, x0, y0 + self._tall, x0 + self._wide).clip(
                        self._height, self._width
                    )
                    yield (plane * self._down + row) * self._across + col, chosen, place

    def _decode(self, index: int, place: Box) -> Pixels:
        """Return the pixels of one tile or strip, (h, w, samples), at least the part inside the
        image.
        """
        page = self._page
        name = f"{'tile' if page.is_tiled else 'strip'} {index} of {len(page.dataoffsets)}"
        if page.databytecounts[index] == 0:  # a sparse file: the tables were checked
            held = 1 if self._planar else self._samples
            return np.full(
                (*place.shape, held), 0 if self._nodata is None else self._nodata, page.dtype
            )
        data = self._source.read(page.dataoffsets[index], page.databytecounts[index])
        if self._extra and page.jpegheader is None:
            describe.check_jpeg_segment(self._path, name, data, (self._tall, self._wide))
        try:
            segment = self._decoded(data, index, place)
        except (
            Exception
        ) as error:  # codecs raise their own types, which all mean that the data is damaged
            raise DamagedError(
                f"{self._path}: {name} cannot be decoded: {one_line(error)}; get it again"
            ) from error
        if segment is None or segment.dtype != page.dtype:
            raise DamagedError(
                f"{self._path}: {name} does not decode to {page.dtype} pixels; get it again"
            )
        return np.asarray(segment[0])

    def _decoded(self, data: bytes, index: int, place: Box) -> Any:
        try:
            return self._page.decode(data, index, **self._extra)[0]
        except Exception:
            trimmed = self._trimmed(data, place) if describe.is_deflate(self._page) else None
            if trimmed is None:
                raise
            return self._page.decode(trimmed, index, **self._extra)[0]

    def _trimmed(self, data: bytes, place: Box) -> bytes | None:
        """Return a zlib stream of exactly the segment's bytes, where the stored one goes on after
        them.
        """
        held = 1 if self._planar else self._samples
        rows = self._tall if self._page.is_tiled else place.height
        expected = rows * -(-self._wide * held * int(self._page.bitspersample) // 8)
        raw = zlib.decompressobj().decompress(data, expected)
        return zlib.compress(raw, 0) if len(raw) == expected else None


class MappedPageDecoder:
    """Read windows of an uncompressed, contiguous TIFF page through the page cache."""

    def __init__(self, source: ByteSource, page: tifffile.TiffPage) -> None:
        dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        planar = int(page.planarconfig) == 2
        height = int(page.imagelength)
        width = int(page.imagewidth)
        samples = int(page.samplesperpixel)
        shape = (samples, height, width) if planar else (height, width, samples)
        count = height * width * samples
        offset = int(page.dataoffsets[0])
        if offset + count * dtype.itemsize > source.size:
            raise FormatError(
                f"{source.name}: the TIFF is truncated in its pixels; get it again from its source"
            )
        pixels = np.frombuffer(source.data(), dtype, count, offset).reshape(shape)
        self._pixels: Pixels = pixels if planar else pixels.transpose(2, 0, 1)
        self._dtype = np.dtype(page.dtype)

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w) in the page's dtype; see `Decoder.read`."""
        window = self._pixels[(slice(None), *box.slices())]
        if samples != tuple(range(len(self._pixels))):
            window = window[list(samples)]
        return np.array(window, self._dtype, order="C")

    def close(self) -> None:
        """Release the mapping."""
        self._pixels = np.empty((0, 0, 0), self._dtype)
