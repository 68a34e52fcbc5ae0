"""TIFF: what a file must be to be read, checked on its header and tables before any pixel is
decoded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from storage.byte_source import ByteSource
from storage.errors import DamagedError, FormatError, one_line
from storage.image import EVERYTHING, ITEMSIZE, ImageInfo, Selection, check_size, choose_bands
from storage.limits import MAX_PIXELS, MAX_SEGMENT_BYTES
from storage.readers.common import exif
from storage.readers.common.jpeg_markers import frame_size
from storage.readers.common.sample_conversion import DELIVERED, SampleConversion
from storage.readers.common.staging_blocks import cut
from storage.readers.tiff import geotags
from storage.readers.tiff.pages import Frames, find_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.image import Dtype

# tifffile reports every oddity of a file to its logger, and Python prints such lines where nobody
# configured logging; what matters becomes a FormatError here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_WHITE = 0
_GREY = 1
_RGB = 2
_PALETTE = 3
_YCBCR = 6
_REFUSED = {
    4: "mask",
    5: "CMYK",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32844: "LogL",
    32845: "LogLuv",
}
_NONE = 1
_JPEG = 7
_DEFLATE = (8, 32946)
_JPEG_2000 = (33003, 33004, 33005, 34712)
_COMPRESSIONS = {
    _NONE: "uncompressed",
    5: "LZW",
    _JPEG: "JPEG",
    8: "deflate",
    22610: "JPEG XR",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "zstd",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
# Above this side a tile is mostly pixels that a 256 px window does not need: staging once is
# cheaper than decoding the tile for every window (storage.md 1.2).
_LAZY_TILE = 1024
_SUPPORTED = "supported: 1 to 16 bit unsigned, 8 or 16 bit signed and 16 or 32 bit float samples, grey, RGB or bands"


@dataclass(frozen=True, slots=True)
class Checked:
    """An open TIFF whose chosen pages can be read."""

    source: ByteSource
    file: tifffile.TiffFile
    pages: tuple[tifffile.TiffPage, ...]
    info: ImageInfo
    conversion: SampleConversion

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        self.source.close()


def inspect_tiff(
    path: str, selection: Selection = EVERYTHING, *, max_pixels: int = MAX_PIXELS
) -> ImageInfo:
    """Describe a TIFF file from its header and tables.

    Raises FormatError for damaged files and unsupported kinds of TIFF.
    """
    found = open_checked(path, selection, max_pixels=max_pixels)
    found.close()
    return found.info


def open_checked(
    path: str, selection: Selection = EVERYTHING, *, max_pixels: int = MAX_PIXELS
) -> Checked:
    """Open a TIFF file and check it, and the pages that hold the chosen frame; the caller closes
    it.
    """
    source = ByteSource(path)
    try:
        return _checked(source, selection, max_pixels)
    except FormatError:
        source.close()
        raise
    except (
        Exception
    ) as error:  # hostile bytes reach every corner of the parser; all of it means the same
        source.close()
        raise FormatError(
            f"{source.name}: the TIFF structure is damaged: {one_line(error)}; get it again"
        ) from error


def is_jpeg(page: tifffile.TiffPage) -> bool:
    """Tell whether the segments of a page are JPEG streams."""
    return int(page.compression) == _JPEG


def is_deflate(page: tifffile.TiffPage) -> bool:
    """Tell whether the segments of a page are zlib streams."""
    return int(page.compression) in _DEFLATE


def is_mapped(source: ByteSource, page: tifffile.TiffPage) -> bool:
    """Tell whether the pixels of a page lie in the file as one plain array, which can be mapped
    into memory.
    """
    return (
        source.local and bool(page.is_final) and int(page.bitspersample) == 8 * page.dtype.itemsize
    )


def segment_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return (height, width) of a tile or strip, px; a last strip may be shorter."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def _checked(source: ByteSource, selection: Selection, max_pixels: int) -> Checked:
    # is_ome=False: the OME reader would open other files that the metadata names.
    file = tifffile.TiffFile(source.opened(), name="image", is_ome=False, is_mmstack=False)
    try:
        if not len(file.pages):
            raise FormatError(
                f"{source.name}: the TIFF holds no image, or is cut before its first table; get it again"
            )
        _refuse_other_readers(source.name, file)
        frames = find_frames(source.name, file, selection)
        pages = tuple(file.pages[number] for number in frames.pages)
        for page in pages:
            _refuse_unsupported(source.name, page)
            _refuse_different(source.name, pages[0], page)
            height = int(page.imagelength)
            width = int(page.imagewidth)
            check_size(source.name, height, width, max_pixels)
            _check_tables(source.name, page, source.size)
            # Builds the decoder from the tags: what does not fit together shows here.
            page.init_decode()
        info, conversion = _describe(source, pages, frames, selection)
    except BaseException:
        file.close()
        raise
    return Checked(source, file, pages, info, conversion)


def _describe(
    source: ByteSource, pages: tuple[tifffile.TiffPage, ...], frames: Frames, selection: Selection
) -> tuple[ImageInfo, SampleConversion]:
    path = source.name
    page = pages[0]
    count = int(page.samplesperpixel) * len(pages)
    alpha, kind = _alpha(page)
    bands = choose_bands(path, selection.channel, count, alpha)
    conversion, dtype, notes = _conversion(path, page, bands)
    if alpha is not None and alpha not in bands:
        notes.append(
            f"the {kind} alpha channel is left out; --channel {','.join(map(str, range(count)))} keeps it"
        )
    geo, geo_notes = geotags.read_georeference(path, page)
    nodata, nodata_notes = geotags.read_nodata(page, dtype)
    names = frames.names if len(frames.names) == count else geotags.read_names(page, count)
    (tall, wide), (height, width) = (
        segment_shape(page),
        (int(page.imagelength), int(page.imagewidth)),
    )
    contiguous = is_mapped(source, page)
    samples = 1 if int(page.planarconfig) == 2 else int(page.samplesperpixel)
    itemsize = int(page.dtype.itemsize)
    segment = tall * wide * samples * itemsize
    small = page.is_tiled and max(tall, wide) <= _LAZY_TILE and segment <= MAX_SEGMENT_BYTES
    layout = f"{'tiles' if page.is_tiled else 'strips'} {tall}x{wide}, {_COMPRESSIONS[int(page.compression)]}"
    orientation = int(page.tags.valueof(274, 1) or 1)
    orientation = orientation if 1 <= orientation <= 8 else 1
    turned = exif.swaps_sides(orientation)
    palette = conversion.palette is not None
    channels = 3 if palette else len(bands)
    grain = (wide, tall) if turned else (tall, wide)
    shape = (width, height) if turned else (height, width)
    block = cut(*shape, channels * ITEMSIZE[dtype], grain, turned=turned)
    info = ImageInfo(
        path=path,
        format="TIFF",
        height=shape[0],
        width=shape[1],
        channels=channels,
        grain=None if contiguous else grain,
        dtype=dtype,
        bits=int(page.bitspersample),
        lazy=contiguous or small,
        why_staged="" if contiguous or small else f"windows of {layout} are slow to read",
        layout=layout,
        # A block before and after its conversion; the segments of all bands at one place, and their
        # data before that.
        staging_bytes=0
        if contiguous or small
        else 2 * block.nbytes + 2 * tall * wide * count * itemsize,
        limits=_limits(page, dtype, palette=palette),
        names=tuple(names[band] for band in bands) if names and not palette else (),
        nodata=None if palette else nodata,
        alpha=kind,  # type: ignore[arg-type]
        icc=bytes(page.iccprofile) if page.iccprofile else None,
        pixel_size=_swapped(frames.pixel_size) if turned else frames.pixel_size,
        geo=geo,
        orientation=orientation,
        levels=tuple((w, h) if turned else (h, w) for h, w in frames.levels),
        axes=frames.axes,
        notes=(*notes, *frames.notes, *geo_notes, *nodata_notes),
    )
    if geo is not None and orientation != 1:
        raise FormatError(
            f"{path}: a georeference and orientation {orientation}: turn the pixels first: gdalwarp"
        )
    return info, conversion


def _swapped(pair: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if pair is None else (pair[1], pair[0])


def _alpha(page: tifffile.TiffPage) -> tuple[int | None, str]:
    """Return (sample, kind) of the alpha channel; further samples follow the colours."""
    extra = [int(kind) for kind in page.extrasamples]
    for place, kind in enumerate(extra):
        if kind in (1, 2):
            name = "associated" if kind == 1 else "unassociated"
            return int(page.samplesperpixel) - len(extra) + place, name
    return None, ""


def _conversion(
    path: str, page: tifffile.TiffPage, bands: tuple[int, ...]
) -> tuple[SampleConversion, Dtype, list[str]]:
    """Return how stored samples are delivered, as which dtype, and what is converted on purpose."""
    stored = str(page.dtype)
    white = int(page.photometric or 0) == _WHITE
    if int(page.photometric or 0) == _PALETTE:
        palette = _colour_map(path, page)
        name: Dtype = "uint8" if palette.dtype == np.uint8 else "uint16"
        return (
            SampleConversion(samples=(0,), palette=palette),
            name,
            ["palette colours are expanded to RGB"],
        )
    if stored == "bool":
        zero = "white" if white else "black"
        note = f"1 bit samples (0 is {zero}) become 0 and 255"
        return (
            SampleConversion(samples=bands, bilevel=True, inverted_peak=1 if white else None),
            "uint8",
            [note],
        )
    dtype = DELIVERED[stored]
    notes = []
    if dtype != stored:
        notes.append(f"{stored} is widened to {dtype}, value by value")
    inverted = white and stored in (
        "uint8",
        "uint16",
    )  # the tag says nothing useful of signed and float samples
    if inverted:
        notes.append("0 is white in the file: values are inverted")
    peak = (1 << int(page.bitspersample)) - 1
    return SampleConversion(samples=bands, inverted_peak=peak if inverted else None), dtype, notes


def _colour_map(path: str, page: tifffile.TiffPage) -> NDArray[np.generic]:
    """Return the (3, entries) colours: 8 bit where nothing of the 16 bit is lost."""
    table = page.colormap
    entries = 1 << int(page.bitspersample)
    if table is None or table.shape != (3, entries):
        found = None if table is None else table.shape
        raise FormatError(
            f"{path}: a palette of {found} colours where (3, {entries}) belong; the TIFF is damaged"
        )
    coarse = table >> 8
    narrow = bool(((coarse * 257 == table) | (coarse * 256 == table)).all())
    return np.ascontiguousarray(coarse.astype(np.uint8) if narrow else table.astype(np.uint16))


def _limits(page: tifffile.TiffPage, dtype: Dtype, *, palette: bool) -> tuple[float, float] | None:
    if dtype == "uint8" and (palette or page.dtype == bool):
        return 0.0, 255.0
    if palette:
        return 0.0, 65535.0
    return (0.0, float((1 << int(page.bitspersample)) - 1)) if page.dtype.kind == "u" else None


def _refuse_other_readers(path: str, file: tifffile.TiffFile) -> None:
    """Refuse slide formats whose pages do not make an image by themselves."""
    for name, found in (
        ("Leica SCN", file.is_scn),
        ("Ventana BIF", file.is_bif),
        ("Philips", file.is_philips),
    ):
        if found:
            raise FormatError(
                f"{path}: a {name} slide, which is read through OpenSlide; install it: pip install 'gigarestore[wsi]'"
            )


def _refuse_different(path: str, first: tifffile.TiffPage, page: tifffile.TiffPage) -> None:
    fields = ("imagelength", "imagewidth", "samplesperpixel", "dtype", "photometric")
    for name in fields:
        one = getattr(first, name)
        other = getattr(page, name)
        if one != other:
            raise FormatError(
                f"{path}: its channels differ in {name} ({one} and {other}); choose them one by one"
            )


def _refuse_unsupported(path: str, page: tifffile.TiffPage) -> None:
    samples = int(page.samplesperpixel)
    bits = page.bitspersample
    photometric = int(page.photometric or 0)
    if min(int(page.imagelength), int(page.imagewidth), *segment_shape(page)) < 1:
        raise FormatError(
            f"{path}: the TIFF says {page.imagelength} x {page.imagewidth} px in segments of "
            f"{segment_shape(page)} px (H x W); both need at least 1 x 1; get it again from its source"
        )
    if int(page.compression) not in _COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        raise FormatError(
            f"{path}: found {name} compression, which is not supported; convert it: tiffcp -c zip in out"
        )
    if photometric in _REFUSED or (
        photometric == _YCBCR and not is_jpeg(page) and not _is_jpeg_2000(page)
    ):
        name = _REFUSED.get(photometric, "YCbCr without JPEG")
        raise FormatError(
            f"{path}: found {name} pixels; {_SUPPORTED}; convert it: magick in.tif -type TrueColor o.tif"
        )
    if page.dtype is None or (str(page.dtype) not in DELIVERED and page.dtype != bool):
        kind = {2: "signed", 3: "float", 5: "complex", 6: "complex"}.get(
            int(page.sampleformat or 1), "unsigned"
        )
        raise FormatError(
            f"{path}: found {bits} bit {kind} samples; {_SUPPORTED}; convert it: vips cast in.tif out.tif ushort"
        )
    if int(page.planarconfig) not in (1, 2):
        raise FormatError(
            f"{path}: planar configuration {page.planarconfig} is unknown; the TIFF is damaged, get it again"
        )
    if int(page.imagedepth) != 1:
        raise FormatError(
            f"{path}: found a volume of depth {page.imagedepth}; {_SUPPORTED}; extract one slice"
        )
    _refuse_colours(path, page, samples, photometric)


def _refuse_colours(path: str, page: tifffile.TiffPage, samples: int, photometric: int) -> None:
    """Hold the number of samples to the colours that the file claims; further samples are bands of
    their own.
    """
    colours = {_WHITE: 1, _GREY: 1, _RGB: 3, _PALETTE: 1, _YCBCR: 3}.get(photometric)
    plain = not is_jpeg(page) or photometric != _YCBCR
    if colours is None or samples < colours or (samples > colours and not plain):
        names = {_WHITE: "grey", _GREY: "grey", _RGB: "RGB", _PALETTE: "palette", _YCBCR: "YCbCr"}
        raise FormatError(
            f"{path}: found {samples} bands marked as {names.get(photometric, f'photometric {photometric}')}; "
            f"{_SUPPORTED}; choose the bands and mark them: "
            "gdal_translate -b 1 -b 2 -b 3 -colorinterp red,green,blue in.tif out.tif"
        )


def _is_jpeg_2000(page: tifffile.TiffPage) -> bool:
    return int(page.compression) in _JPEG_2000


def _check_tables(path: str, page: tifffile.TiffPage, size: int) -> None:
    """Hold the offsets and byte counts of all tiles or strips to the file: nothing missing, nothing
    past its end.
    """
    kind = "tile" if page.is_tiled else "strip"
    expected = int(np.prod(page.chunked))
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    if len(offsets) != expected or len(counts) != expected:
        raise FormatError(
            f"{path}: {page.imagelength} x {page.imagewidth} px need {expected} {kind}s, the file lists "
            f"{len(offsets)} offsets and {len(counts)} byte counts; the TIFF is damaged, get it again"
        )
    empty = (counts <= 0) | (offsets <= 0)
    # GDAL writes neither offset nor bytes for tiles of nothing but nodata.
    sparse = int(
        (empty & ((counts != 0) | (offsets != 0) | (page.tags.valueof(42113) is None))).sum()
    )
    if sparse:
        raise FormatError(
            f"{path}: {sparse} of {expected} {kind}s hold no data and no nodata value says what belongs there; "
            "fill them: gdal_translate -co SPARSE_OK=FALSE in.tif out.tif"
        )
    outside = np.flatnonzero(offsets + counts > size)
    if len(outside):
        raise FormatError(
            f"{path}: the TIFF is truncated: {kind} {outside[0]} ends at byte {(offsets + counts)[outside[0]]}, the "
            f"file has {size} ({len(outside)} {kind}s are cut); get it again from its source"
        )
    if int(page.compression) == _NONE:
        short = np.flatnonzero((counts < _raw_bytes(page, expected)) & ~empty)
        if len(short):
            raise FormatError(
                f"{path}: {kind} {short[0]} is shorter than its pixels; the TIFF is damaged, get it again"
            )


def _raw_bytes(page: tifffile.TiffPage, segments: int) -> NDArray[np.int64]:
    """Return the bytes that every uncompressed segment needs at least: rows are packed bit by bit
    to whole bytes.
    """
    tall, wide = segment_shape(page)
    samples = 1 if int(page.planarconfig) == 2 else int(page.samplesperpixel)
    rows = np.full(segments, tall, np.int64)
    if not page.is_tiled:
        per_plane = -(-int(page.imagelength) // tall)
        rows[per_plane - 1 :: per_plane] = int(page.imagelength) - (per_plane - 1) * tall
    return rows * -(-wide * samples * int(page.bitspersample) // 8)


def check_jpeg_segment(path: str, place: str, data: bytes, shape: tuple[int, int]) -> None:
    """Check a JPEG segment before it is decoded: whole, and no larger than its place.

    Decoders fill what is missing with grey, silently, and allocate whatever its own header
    declares.
    """
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9", max(0, len(data) - 64)) < 0:
        raise DamagedError(
            f"{path}: {place} is not a whole JPEG stream: the file is damaged; get it again"
        )
    found = frame_size(data)
    if found is not None and found[0] * found[1] > 4 * max(shape[0] * shape[1], 1 << 16):
        raise DamagedError(
            f"{path}: {place} declares {found} px where {shape} belong; the file is damaged"
        )
