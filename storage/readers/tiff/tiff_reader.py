"""TIFF pixels by windows: only the tiles or strips under a window are read and decoded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from storage.box import Box
from storage.errors import DamagedError, FormatError, one_line
from storage.image import EVERYTHING, Selection
from storage.limits import MAX_PIXELS
from storage.readers.common.sample_conversion import ConvertingReader, Decoder, MaskDecoder
from storage.readers.tiff import geotags
from storage.readers.tiff.describe import open_checked
from storage.readers.tiff.lerc import LERC, decode_lerc
from storage.readers.tiff.page_checks import check_jpeg_segment
from storage.readers.tiff.page_layout import (
    is_deflate,
    is_jpeg,
    is_mapped,
    is_planar,
    page_size,
    row_bytes,
    samples_per_segment,
    segment_shape,
    stored_samples,
    unwritten,
)

if TYPE_CHECKING:
    import tifffile

    from storage.byte_source import ByteSource
    from storage.image import Marks, Pixels
    from storage.readers.tiff.describe import OpenTiff

# Of segments that are kept although the next window in reading order does not need them, bytes.
_KEPT_BYTES = 16 << 20


def open_tiff(
    path: str,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int = MAX_PIXELS,
) -> ConvertingReader:
    """Open a TIFF file with the decoder that fits its layout."""
    opened = open_checked(path, selection, max_pixels=max_pixels)
    masks: list[MaskDecoder] = []
    if opened.mask is not None:
        masks.append(_MaskPage(opened, opened.mask))
    if any(map(unwritten, opened.pages)):
        masks.append(_WrittenSegments(opened))
    return ConvertingReader(opened.info, _PagesDecoder(opened), opened.conversion, masks)


class _MaskPage:
    """A page of a mask, where anything but 0 is valid (TIFF 6.0, NewSubfileType; GDAL)."""

    def __init__(self, opened: OpenTiff, page: tifffile.TiffPage) -> None:
        self._decoder = _decoder(opened, page)

    def read(self, box: Box) -> Marks:
        return np.asarray(self._decoder.read(box, (0,)) != 0)

    def close(self) -> None:
        self._decoder.close()


class _WrittenSegments:
    """The tiles and strips that have bytes; in the others nothing was measured."""

    def __init__(self, opened: OpenTiff) -> None:
        self._pages = [PageDecoder(opened, page) for page in opened.pages]
        self._samples_of_page = stored_samples(opened.pages[0])
        conversion = opened.conversion
        several = len(opened.pages) > 1 or is_planar(opened.pages[0])
        one = conversion.palette is not None or not several
        self._samples = (0,) if one else conversion.samples

    def read(self, box: Box) -> Marks:
        parts = []
        for sample in self._samples:
            page, sample_of_page = divmod(sample, self._samples_of_page)
            parts.append(self._pages[page].written(box, sample_of_page))
        return np.concatenate(parts)

    def close(self) -> None:
        """Do nothing: nothing is kept."""


class _PagesDecoder:
    """The samples of one page, or of one page per channel."""

    def __init__(self, opened: OpenTiff) -> None:
        self._opened = opened
        self._samples_of_page = stored_samples(opened.pages[0])
        self._decoders: list[Decoder] = [_decoder(opened, page) for page in opened.pages]

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        if len(self._decoders) == 1:
            return self._decoders[0].read(box, samples)
        parts = []
        for sample in samples:
            page, sample_of_page = divmod(sample, self._samples_of_page)
            part = self._decoders[page].read(box, (sample_of_page,))
            parts.append(part)
        return np.concatenate(parts)

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.close()
        self._opened.close()


def _decoder(opened: OpenTiff, page: tifffile.TiffPage) -> Decoder:
    if is_mapped(opened.source, page):
        return MappedPageDecoder(opened.source, page)
    return PageDecoder(opened, page)


class _Segment(NamedTuple):
    """A tile or strip under a window."""

    number: int
    """In the tables of the file."""
    samples: list[tuple[int, int]]
    """(row of the result, sample in the segment) of what is wanted from it."""
    place: Box
    """In the image, clipped to it."""


class PageDecoder:
    """Read windows of a checked TIFF page.

    Memory: the window, a segment, and what is kept of the latest window for the next one: segments
    that it has cut at its bottom, so that bands from top to bottom decode every strip once,
    whatever its height; and a few more.
    """

    def __init__(self, opened: OpenTiff, page: tifffile.TiffPage) -> None:
        self._path = opened.info.path
        self._page = page
        self._source = opened.source
        self._planar = is_planar(page) and stored_samples(page) > 1
        self._height, self._width = page_size(page)
        self._tall, self._wide = segment_shape(page)
        self._down = -(-self._height // self._tall)
        self._across = -(-self._width // self._wide)
        nodata, _ = geotags.read_nodata(page, opened.info.dtype)
        self._unwritten = 0 if nodata is None else nodata
        self._jpeg_tables: dict[str, Any] = {}
        if is_jpeg(page):
            self._jpeg_tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        self._recent: dict[int, Pixels] = {}

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w) in the page's dtype; see `Decoder.read`."""
        out = np.empty((len(samples), *box.shape), self._page.dtype)
        recent = self._recent
        kept = {}
        kept_bytes = 0
        for number, wanted, place in self._segments(box, samples):
            pixels = recent.get(number)
            if pixels is None:
                pixels = self._decode(number, place)
            if self._goes_on(place, box) or kept_bytes + pixels.nbytes <= _KEPT_BYTES:
                kept[number] = pixels
                kept_bytes += pixels.nbytes
            part = place.intersect(box)
            window = pixels[part.shift(-place.y0, -place.x0).slices()]
            rows, columns = part.shift(-box.y0, -box.x0).slices()
            for row_of_result, sample in wanted:
                out[row_of_result, rows, columns] = window[..., sample]
        self._recent = kept
        return out

    def close(self) -> None:
        """Drop the decoded segments."""
        self._recent = {}

    def written(self, box: Box, sample: int) -> Marks:
        """Return which pixels of a window lie in segments that have bytes, (1, h, w)."""
        out = np.zeros((1, *box.shape), bool)
        for number, _, place in self._segments(box, (sample,)):
            if self._page.databytecounts[number]:
                rows, columns = place.intersect(box).shift(-box.y0, -box.x0).slices()
                out[0, rows, columns] = True
        return out

    def _goes_on(self, place: Box, box: Box) -> bool:
        """Tell whether a window cuts a segment, of which the next window then needs the rest."""
        below = place.y1 > box.y1
        to_the_right = self._page.is_tiled and place.x1 > box.x1
        return below or to_the_right

    def _segments(self, box: Box, samples: tuple[int, ...]) -> Iterator[_Segment]:
        """Yield the segments under a window."""
        rows = range(box.y0 // self._tall, -(-box.y1 // self._tall))
        columns = range(box.x0 // self._wide, -(-box.x1 // self._wide))
        if self._planar:
            planes = [(sample, [(row, 0)]) for row, sample in enumerate(samples)]
        else:
            planes = [(0, list(enumerate(samples)))]
        for plane, wanted in planes:
            for row in rows:
                for col in columns:
                    number = (plane * self._down + row) * self._across + col
                    y0 = row * self._tall
                    x0 = col * self._wide
                    whole = Box(y0, x0, y0 + self._tall, x0 + self._wide)
                    place = whole.clip(self._height, self._width)
                    yield _Segment(number, wanted, place)

    def _decode(self, index: int, place: Box) -> Pixels:
        """Return the pixels of one tile or strip, (h, w, samples), at least those in the image."""
        page = self._page
        kind = "tile" if page.is_tiled else "strip"
        name = f"{kind} {index} of {len(page.dataoffsets)}"
        if page.databytecounts[index] == 0:  # a sparse file: the tables were checked
            shape = (*place.shape, samples_per_segment(page))
            return np.full(shape, self._unwritten, page.dtype)

        data = self._source.read(page.dataoffsets[index], page.databytecounts[index])
        if self._jpeg_tables and page.jpegheader is None:
            check_jpeg_segment(self._path, name, data, (self._tall, self._wide))
        try:
            segment = self._decoded(data, index, place)
        except Exception as error:  # codecs' own types, which all mean that the data is damaged
            raise DamagedError(
                f"{self._path}: {name} cannot be decoded: {one_line(error)}; get it again"
            ) from error
        if segment is None or segment.dtype != page.dtype or not self._fits(segment[0], place):
            raise DamagedError(
                f"{self._path}: {name} does not decode to {page.dtype} pixels; get it again"
            )
        return np.asarray(segment[0])

    def _fits(self, pixels: Pixels, place: Box) -> bool:
        """Tell whether a decoded segment holds what belongs to its place."""
        height, width, samples = pixels.shape
        large_enough = height >= place.height and width >= place.width
        return bool(large_enough and samples == samples_per_segment(self._page))

    def _decoded(
        self,
        data: bytes,
        index: int,
        place: Box,
    ) -> Any:
        if int(self._page.compression) == LERC:
            return decode_lerc(data, self._page, samples_per_segment(self._page))[np.newaxis]
        try:
            return self._page.decode(data, index, **self._jpeg_tables)[0]
        except Exception:
            trimmed = self._trimmed(data, place) if is_deflate(self._page) else None
            if trimmed is None:
                raise
            return self._page.decode(trimmed, index, **self._jpeg_tables)[0]

    def _trimmed(self, data: bytes, place: Box) -> bytes | None:
        """Return a zlib stream of exactly the segment's bytes.

        For a stored one that goes on after them; None where it is too short.
        """
        rows = self._tall if self._page.is_tiled else place.height
        expected = rows * row_bytes(self._page)
        raw = zlib.decompressobj().decompress(data, expected)
        return zlib.compress(raw, 0) if len(raw) == expected else None


class MappedPageDecoder:
    """Read windows of an uncompressed, contiguous TIFF page through the page cache."""

    def __init__(self, source: ByteSource, page: tifffile.TiffPage) -> None:
        dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        planar = is_planar(page)
        height, width = page_size(page)
        samples = stored_samples(page)
        shape = (samples, height, width) if planar else (height, width, samples)
        count = height * width * samples
        offset = int(page.dataoffsets[0])
        end = offset + count * dtype.itemsize
        if end > source.size:
            raise FormatError(
                f"{source.name}: the TIFF is truncated in its pixels; get it again from its source"
            )
        pixels = np.frombuffer(source.data(), dtype, count, offset).reshape(shape)
        self._pixels: Pixels = pixels if planar else pixels.transpose(2, 0, 1)
        self._dtype = np.dtype(page.dtype)

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w) in the page's dtype; see `Decoder.read`."""
        rows, columns = box.slices()
        window = self._pixels[:, rows, columns]
        everything = tuple(range(len(self._pixels)))
        if samples != everything:
            window = window[list(samples)]
        return np.array(window, self._dtype, order="C")

    def close(self) -> None:
        """Release the mapping."""
        self._pixels = np.empty((0, 0, 0), self._dtype)
