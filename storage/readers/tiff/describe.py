"""TIFF: what a file says of its image, from its header and tables alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from storage.byte_source import ByteSource
from storage.errors import FormatError, one_line
from storage.image import EVERYTHING, ITEMSIZE, ImageInfo, Selection, choose_bands
from storage.limits import MAX_PIXELS, MAX_SEGMENT_BYTES
from storage.readers.common import exif
from storage.readers.common.sample_conversion import DELIVERED, SampleConversion
from storage.readers.common.staging_blocks import cut
from storage.readers.tiff import geotags
from storage.readers.tiff.page_checks import check_mask, check_pages, refuse_other_readers
from storage.readers.tiff.page_coding import page_coding
from storage.readers.tiff.page_layout import (
    COMPRESSIONS,
    PALETTE,
    WHITE_IS_ZERO,
    is_mapped,
    page_size,
    samples_per_segment,
    segment_shape,
    stored_samples,
)
from storage.readers.tiff.page_validity import (
    all_but,
    alpha_notes,
    alpha_of,
    page_validity,
    refuse_classes,
)
from storage.readers.tiff.pages import Frames, find_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.image import Dtype

# tifffile reports every oddity of a file to its logger, and Python prints such lines where nobody
# configured logging; what matters becomes a FormatError here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_ORIENTATION = 274
# Above this side a tile is mostly pixels that a 256 px window does not need: staging once is
# cheaper than decoding the tile for every window (storage.md 1.2).
_LAZY_TILE = 1024


@dataclass(frozen=True, slots=True)
class OpenTiff:
    """An open TIFF whose chosen pages can be read."""

    source: ByteSource
    file: tifffile.TiffFile
    pages: tuple[tifffile.TiffPage, ...]
    info: ImageInfo
    conversion: SampleConversion
    mask: tifffile.TiffPage | None = None

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        self.source.close()


def inspect_tiff(
    path: str,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int = MAX_PIXELS,
) -> ImageInfo:
    """Describe a TIFF file from its header and tables.

    Raises FormatError for damaged files and unsupported kinds of TIFF.
    """
    opened = open_checked(path, selection, max_pixels=max_pixels)
    opened.close()
    return opened.info


def open_checked(
    path: str,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int = MAX_PIXELS,
) -> OpenTiff:
    """Open a TIFF file and check it, and the pages that hold the chosen frame.

    The caller closes it. Raises FormatError.
    """
    source = ByteSource(path)
    try:
        return _opened(source, selection, max_pixels)
    except FormatError:
        source.close()
        raise
    except Exception as error:  # hostile bytes reach every corner of the parser
        source.close()
        raise FormatError(
            f"{source.name}: the TIFF structure is damaged: {one_line(error)}; get it again"
        ) from error


def _opened(
    source: ByteSource,
    selection: Selection,
    max_pixels: int,
) -> OpenTiff:
    # is_ome=False: the OME reader would open other files that the metadata names.
    file = tifffile.TiffFile(
        source.opened(),
        name="image",
        is_ome=False,
        is_mmstack=False,
    )
    try:
        if not len(file.pages):
            raise FormatError(
                f"{source.name}: the TIFF holds no image, or is cut before its first table; "
                "get it again"
            )
        refuse_other_readers(source.name, file)
        frames = find_frames(source.name, file, selection)
        pages = tuple(file.pages[number] for number in frames.pages)
        check_pages(source.name, pages, source.size, max_pixels)
        mask = None if frames.mask is None else file.pages[frames.mask]
        if mask is not None:
            check_mask(source.name, mask, source.size)
        info, conversion = _describe(source, pages, frames, selection)
    except BaseException:
        file.close()
        raise
    return OpenTiff(source, file, pages, info, conversion, mask)


@dataclass(frozen=True, slots=True)
class _Samples:
    """What is delivered of the stored samples, and as what."""

    conversion: SampleConversion
    dtype: Dtype
    notes: tuple[str, ...]

    @property
    def from_palette(self) -> bool:
        return self.conversion.palette is not None

    @property
    def channels(self) -> int:
        return 3 if self.from_palette else len(self.conversion.samples)


# Photometric interpretations of one picture in colour: RGB and YCbCr.
COLOURED = (2, 6)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the pixels lie, in delivered orientation, and what reading them costs."""

    height: int
    width: int
    grain: tuple[int, int] | None
    lazy: bool
    layout: str
    staging_bytes: int


def _describe(
    source: ByteSource,
    pages: tuple[tifffile.TiffPage, ...],
    frames: Frames,
    selection: Selection,
) -> tuple[ImageInfo, SampleConversion]:
    path = source.name
    page = pages[0]
    stored = stored_samples(page) * len(pages)
    alpha_band, alpha = alpha_of(page)
    refuse_classes(path, page)
    bands = choose_bands(path, selection.channel, stored, alpha_band)
    samples = _samples(path, page, bands)
    orientation = _orientation(page)
    turned = exif.swaps_sides(orientation)
    layout = _layout(source, page, stored, samples, turned=turned)
    geo, geo_notes = geotags.read_georeference(path, page)
    if geo is not None and orientation != 1:
        raise FormatError(
            f"{path}: a georeference and orientation {orientation}: turn the pixels first: gdalwarp"
        )
    nodata, nodata_notes = geotags.read_nodata(page, samples.dtype)
    notes_of_alpha = alpha_notes(alpha, alpha_band, bands, stored)
    transparent = alpha_band is not None and alpha_band not in bands
    conversion = samples.conversion
    if transparent:
        bits = int(page.bitspersample)
        peak = (1 << bits) - 1.0 if page.dtype.kind == "u" else None
        conversion = replace(conversion, alpha=alpha_band, alpha_peak=peak)
    if samples.from_palette and nodata is not None:
        conversion = replace(conversion, entry_opacity=all_but(int(nodata), page))
    mask, valid_by = page_validity(
        pages,
        frames,
        alpha=alpha if transparent else "",
        entry=conversion.entry_opacity is not None,
        nodata=nodata is not None,
    )
    info = ImageInfo(
        path=path,
        format="TIFF",
        height=layout.height,
        width=layout.width,
        channels=samples.channels,
        grain=layout.grain,
        dtype=samples.dtype,
        bits=int(page.bitspersample),
        lazy=layout.lazy,
        why_staged="" if layout.lazy else f"windows of {layout.layout} are slow to read",
        layout=layout.layout,
        staging_bytes=layout.staging_bytes,
        limits=_limits(page, samples),
        stated=_stated(page, samples, frames.significant_bits),
        stated_by=f"OME-XML: {frames.significant_bits} significant bits",
        names=() if samples.from_palette else _names(page, frames, bands, stored),
        nodata=None if samples.from_palette else nodata,
        mask=mask,
        valid_by=valid_by,
        alpha=alpha,
        icc=bytes(page.iccprofile) if page.iccprofile else None,
        pixel_size=_swapped(frames.pixel_size) if turned else frames.pixel_size,
        geo=geo,
        orientation=orientation,
        levels=tuple((w, h) if turned else (h, w) for h, w in frames.levels),
        axes=frames.axes,
        colour=samples.from_palette or (int(page.photometric or 0) in COLOURED and len(bands) == 3),
        coding=page_coding(source, page, orientation),
        notes=(*samples.notes, *notes_of_alpha, *frames.notes, *geo_notes, *nodata_notes),
    )
    return info, conversion


def _layout(
    source: ByteSource,
    page: tifffile.TiffPage,
    stored: int,
    samples: _Samples,
    *,
    turned: bool,
) -> _Layout:
    """Return where the pixels lie. stored: samples of a pixel, over all pages."""
    tall, wide = segment_shape(page)
    height, width = page_size(page)
    itemsize = int(page.dtype.itemsize)
    segment_bytes = tall * wide * samples_per_segment(page) * itemsize
    small_tiles = (
        page.is_tiled and max(tall, wide) <= _LAZY_TILE and segment_bytes <= MAX_SEGMENT_BYTES
    )
    mapped = is_mapped(source, page)
    lazy = mapped or small_tiles

    grain = (wide, tall) if turned else (tall, wide)
    shape = (width, height) if turned else (height, width)
    pixel_bytes = samples.channels * ITEMSIZE[samples.dtype]
    block = cut(*shape, pixel_bytes, grain, turned=turned)
    # A block before and after its conversion; the segments of all bands at one place, and their
    # data before that.
    staging_bytes = 2 * block.nbytes + 2 * tall * wide * stored * itemsize

    segments = "tiles" if page.is_tiled else "strips"
    compression = COMPRESSIONS[int(page.compression)]
    return _Layout(
        height=shape[0],
        width=shape[1],
        grain=None if mapped else grain,
        lazy=lazy,
        layout=f"{segments} {tall}x{wide}, {compression}",
        staging_bytes=0 if lazy else staging_bytes,
    )


def _orientation(page: tifffile.TiffPage) -> int:
    value = int(page.tags.valueof(_ORIENTATION, 1) or 1)
    return value if 1 <= value <= 8 else 1


def _swapped(pair: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if pair is None else (pair[1], pair[0])


def _names(
    page: tifffile.TiffPage,
    frames: Frames,
    bands: tuple[int, ...],
    stored: int,
) -> tuple[str, ...]:
    """Return the names of the chosen bands: those of the frames, else GDAL's; or none."""
    names = frames.names
    if len(names) != stored:
        names = geotags.read_names(page, stored)
    return tuple(names[band] for band in bands) if names else ()


def _samples(
    path: str,
    page: tifffile.TiffPage,
    bands: tuple[int, ...],
) -> _Samples:
    """Return how stored samples are delivered, as which dtype, and what is converted on purpose."""
    photometric = int(page.photometric or 0)
    white_is_zero = photometric == WHITE_IS_ZERO
    if photometric == PALETTE:
        palette = _colour_map(path, page)
        return _Samples(
            SampleConversion(samples=(0,), palette=palette),
            "uint8" if palette.dtype == np.uint8 else "uint16",
            ("palette colours are expanded to RGB",),
        )

    stored = str(page.dtype)
    if stored == "bool":
        zero = "white" if white_is_zero else "black"
        inverted_peak = 1 if white_is_zero else None
        return _Samples(
            SampleConversion(
                samples=bands,
                bilevel=True,
                inverted_peak=inverted_peak,
            ),
            "uint8",
            (f"1 bit samples (0 is {zero}) become 0 and 255",),
        )

    dtype = DELIVERED[stored]
    notes = []
    if dtype != stored:
        notes.append(f"{stored} is widened to {dtype}, value by value")
    # The tag says nothing useful of signed and float samples.
    inverted = white_is_zero and stored in ("uint8", "uint16")
    if inverted:
        notes.append("0 is white in the file: values are inverted")
    peak = (1 << int(page.bitspersample)) - 1
    conversion = SampleConversion(samples=bands, inverted_peak=peak if inverted else None)
    return _Samples(conversion, dtype, tuple(notes))


def _colour_map(path: str, page: tifffile.TiffPage) -> NDArray[np.generic]:
    """Return the (3, entries) colours: 8 bit where nothing of the 16 bit is lost."""
    table = page.colormap
    entries = 1 << int(page.bitspersample)
    if table is None or table.shape != (3, entries):
        shape = None if table is None else table.shape
        raise FormatError(
            f"{path}: a palette of {shape} colours where (3, {entries}) belong; the TIFF is damaged"
        )
    coarse = table >> 8
    # Writers widen 8 bits by repeating them or with zeros.
    repeated = coarse * 257 == table
    with_zeros = coarse * 256 == table
    narrow = bool((repeated | with_zeros).all())
    colours = coarse.astype(np.uint8) if narrow else table.astype(np.uint16)
    return np.ascontiguousarray(colours)


def _stated(
    page: tifffile.TiffPage, samples: _Samples, bits: int
) -> tuple[tuple[float, float], ...]:
    """Return black and white of each band by the bits that OME-XML says are used."""
    if page.dtype.kind != "u" or samples.from_palette or not 0 < bits < int(page.bitspersample):
        return ()
    return ((0.0, float((1 << bits) - 1)),) * samples.channels


def _limits(page: tifffile.TiffPage, samples: _Samples) -> tuple[float, float] | None:
    bilevel = page.dtype == bool
    if samples.dtype == "uint8" and (samples.from_palette or bilevel):
        return 0.0, 255.0
    if samples.from_palette:
        return 0.0, 65535.0
    if page.dtype.kind != "u":
        return None
    peak = (1 << int(page.bitspersample)) - 1
    return 0.0, float(peak)
