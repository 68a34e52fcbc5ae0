"""PNG, JPEG, JPEG 2000 and PNM: formats without windows.

They are read from top to bottom, by areas through GDAL, or decoded whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from storage.byte_source import ByteSource, Data
from storage.coding import Coding
from storage.errors import FormatError
from storage.image import (
    EVERYTHING,
    ITEMSIZE,
    ImageInfo,
    Selection,
    check_size,
    choose_bands,
    choose_frames,
)
from storage.limits import MAX_WHOLE_BYTES, MAX_WHOLE_PIXELS
from storage.readers.common import exif
from storage.readers.common.jpeg2000_marks import lossy_wavelet
from storage.readers.common.sample_conversion import ConvertingReader, Decoder, SampleConversion
from storage.readers.common.staging_blocks import BLOCK_BYTES, cut
from storage.readers.raster import decode_by_gdal, jpeg, jpeg2000, png
from storage.readers.raster.decode_by_gdal import GdalDecoder
from storage.readers.raster.decode_whole import ArrayDecoder, WholeDecoder
from storage.readers.raster.png_rows import PngRowDecoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.image import Dtype

Kind = Literal["PNG", "JPEG", "JPEG 2000", "PNM"]
# What streaming a PNG holds besides the window: bands of it.
_STREAM_BYTES = 12 << 20
# What GDAL's decoders hold besides the window: its cache and buffers.
_GDAL_BYTES = decode_by_gdal.CACHE + (32 << 20)
_BY_GDAL = "too large to be decoded whole in bounded memory: decoded by pieces, by GDAL"
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(
    rb"(P[56])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What a header says of the stored samples, and how they are decoded."""

    height: int
    width: int
    samples: int
    bits: int
    dtype: Dtype
    peak: int | None = None
    """Largest value, where it is not that of `bits`."""
    alpha: int | None = None
    key: tuple[int, ...] | None = None
    """Stored samples of a transparent colour."""
    entry_opacity: NDArray[np.uint8] | None = None
    icc: bytes | None = None
    orientation: int = 1
    decoder: Callable[[int | None], Decoder]
    """Makes the decoder, given the limit on what decoding takes; None: allowed."""
    memory: int
    """Bytes that decoding takes at its peak, besides the window that is read."""
    grain: tuple[int, int] | None = None
    """(y, x) of what is decoded at a time; None: rows, or everything."""
    conversion: Callable[..., SampleConversion]
    """Makes the conversion, given the chosen samples as `samples`."""
    coding: Coding | None = None
    """Of the stored image, before it is turned."""
    notes: tuple[str, ...] = ()
    lazy: bool = False


def inspect_whole(
    path: str,
    kind: Kind,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int = MAX_WHOLE_PIXELS,
) -> ImageInfo:
    """Describe a file from its header; the chunk structure is walked to its end.

    Raises FormatError for damaged, unsupported or too large files.
    """
    return _described(path, kind, selection, max_pixels)[0]


def open_whole(
    path: str,
    kind: Kind,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int | None = None,
) -> ConvertingReader:
    """Open a file; what is decoded whole is decoded by the first window and stays until `close`.

    max_pixels: also allows decoding that takes more than MAX_WHOLE_BYTES.
    """
    info, stored, conversion = _described(path, kind, selection, max_pixels or MAX_WHOLE_PIXELS)
    max_bytes = MAX_WHOLE_BYTES if max_pixels is None else None
    return ConvertingReader(info, stored.decoder(max_bytes), conversion)


def _described(
    path: str,
    kind: Kind,
    selection: Selection,
    limit: int,
) -> tuple[ImageInfo, _Stored, SampleConversion]:
    with ByteSource(path) as source:
        name = source.name
        data = source.data()
    read = {
        "PNG": _png,
        "JPEG": _jpeg,
        "JPEG 2000": _jpeg_2000,
        "PNM": _pnm,
    }[kind]
    stored = read(name, data)
    check_size(name, stored.height, stored.width, limit)
    choose_frames(name, selection, {})
    bands = choose_bands(name, selection.channel, stored.samples, stored.alpha)
    transparent = None if stored.alpha in bands else stored.alpha
    key = _colour_key(stored, bands)
    conversion = stored.conversion(
        samples=bands, alpha=transparent, key=key, entry_opacity=stored.entry_opacity
    )
    info = _info(name, kind, stored, conversion)
    return info, stored, conversion


def _info(
    path: str,
    kind: Kind,
    stored: _Stored,
    conversion: SampleConversion,
) -> ImageInfo:
    to_8_bit = conversion.palette is not None or conversion.bilevel
    dtype: Dtype = "uint8" if to_8_bit else stored.dtype
    channels = 3 if conversion.palette is not None else len(conversion.samples)
    turned = exif.swaps_sides(stored.orientation)
    height, width = (stored.width, stored.height) if turned else (stored.height, stored.width)
    pixel_bytes = channels * ITEMSIZE[dtype]
    block = cut(height, width, pixel_bytes, stored.grain, turned=turned)
    return ImageInfo(
        path=path,
        format=kind,
        height=height,
        width=width,
        channels=channels,
        colour=channels == 3,
        dtype=dtype,
        bits=stored.bits,
        lazy=stored.lazy,
        why_staged="" if stored.lazy else f"a {kind} has no windows: it is read from its beginning",
        layout="rows" if stored.lazy else "whole",
        grain=stored.grain,
        staging_bytes=0 if stored.lazy else stored.memory + 2 * block.nbytes,
        limits=_limits(stored, dtype),
        mask="alpha" if conversion.has_transparency else "",
        valid_by=_valid_by(conversion),
        alpha="" if stored.alpha is None else "unassociated",
        icc=stored.icc,
        orientation=stored.orientation,
        coding=stored.coding and _turned(stored.coding, stored.orientation),
        notes=_notes(stored, conversion.samples),
    )


def _turned(coding: Coding, orientation: int) -> Coding:
    from_end = (orientation in exif.UPSIDE_DOWN, orientation in exif.MIRRORED)
    return coding.turned(swapped=exif.swaps_sides(orientation), from_end=from_end)


def _colour_key(stored: _Stored, bands: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the transparent colour in the order of the chosen bands.

    None where too few bands are chosen to recognise it.
    """
    if stored.key is None or stored.samples == 1:
        return stored.key
    if len(bands) < stored.samples:
        return None
    return tuple(stored.key[band] for band in bands)


def _valid_by(conversion: SampleConversion) -> str:
    """Return in words what says which pixels are valid."""
    if conversion.alpha is not None:
        return "alpha channel"
    if conversion.entry_opacity is not None:
        return "transparent palette entries"
    return "" if conversion.key is None else "transparent colour"


def _notes(stored: _Stored, bands: tuple[int, ...]) -> tuple[str, ...]:
    if stored.alpha is None or stored.alpha in bands:
        return stored.notes
    everything = ",".join(map(str, range(stored.samples)))
    note = (
        "the unassociated alpha channel is left out of the bands: where it is 0 there is no data; "
        f"--channel {everything} makes it a band"
    )
    return (*stored.notes, note)


def _limits(stored: _Stored, dtype: Dtype) -> tuple[float, float] | None:
    if dtype == "uint8" and stored.bits in (1, 8):
        return 0.0, 255.0
    if dtype == "int16":
        return None
    largest = stored.peak or (1 << stored.bits) - 1
    return 0.0, float(largest)


def _png(path: str, data: Data) -> _Stored:
    header = png.read_header(path, data)
    palette = None if header.palette is None else _palette(header.palette, header.bits)
    bilevel = header.bits == 1 and palette is None
    if header.interlaced and (header.bits < 8 or palette is not None):
        raise FormatError(
            f"{path}: an interlaced PNG of {header.bits} bit samples; "
            "save it without: magick -interlace none"
        )

    notes = []
    if palette is not None:
        notes.append("palette colours are expanded to RGB")
    if bilevel:
        notes.append("1 bit samples become 0 and 255")

    # What is decoded whole comes with its transparent colour as an alpha channel.
    by_colour = header.interlaced and header.transparency is not None
    samples = header.samples + (by_colour and _last_of(header.samples) is None)
    sample_bytes = -(-header.bits // 8)
    raw = header.height * header.width * samples * sample_bytes
    streamed = min(_STREAM_BYTES + 8 * raw // header.height, 6 * raw)

    def decoder(max_bytes: int | None) -> Decoder:
        if not header.interlaced:
            return PngRowDecoder(path, data, header)
        shape = (header.height, header.width, samples)

        def check() -> None:
            png.check(path, data)

        return WholeDecoder(path, "PNG", data, shape, raw, max_bytes, before=check)

    return _Stored(
        height=header.height,
        width=header.width,
        samples=samples,
        bits=header.bits,
        dtype="uint16" if header.bits == 16 else "uint8",
        alpha=_last_of(samples),
        key=None if by_colour else png.transparent(header),
        entry_opacity=png.entry_opacity(header),
        icc=header.icc,
        orientation=header.orientation,
        decoder=decoder,
        memory=raw if header.interlaced else streamed,
        conversion=partial(SampleConversion, palette=palette, bilevel=bilevel),
        notes=tuple(notes),
    )


def _palette(table: bytes, bits: int) -> NDArray[np.uint8]:
    """Return (3, entries): the colours of the numbers, black where the file names none."""
    entries = 1 << bits
    colours = np.frombuffer(table[: 3 * entries], np.uint8)
    named = len(colours) // 3
    palette = np.zeros((3, entries), np.uint8)
    palette[:, :named] = colours[: 3 * named].reshape(-1, 3).T
    return palette


def _last_of(samples: int) -> int | None:
    """Return the alpha channel of grey or colour with one: the last of two or four samples."""
    return samples - 1 if samples in (2, 4) else None


def _jpeg(path: str, data: Data) -> _Stored:
    header = jpeg.read_header(path, data)
    shape = (header.height, header.width, header.channels)
    raw = header.height * header.width * header.channels
    too_large = raw > MAX_WHOLE_BYTES - 2 * BLOCK_BYTES
    by_gdal = too_large and header.by_rows and decode_by_gdal.available()

    def decoder(max_bytes: int | None) -> Decoder:
        if by_gdal:
            return GdalDecoder(path, "JPEG", shape, "uint8")
        return WholeDecoder(path, "JPEG", data, shape, raw, max_bytes)

    return _Stored(
        height=header.height,
        width=header.width,
        samples=header.channels,
        bits=8,
        dtype="uint8",
        icc=header.icc,
        orientation=header.orientation,
        decoder=decoder,
        memory=_GDAL_BYTES if by_gdal else raw,
        conversion=SampleConversion,
        coding=header.tables.coding(),
        notes=(_BY_GDAL,) if by_gdal else (),
    )


def _jpeg_2000(path: str, data: Data) -> _Stored:
    header = jpeg2000.read_header(path, data)
    shape = (header.height, header.width, header.samples)
    if header.bits > 16 or (header.signed and header.bits not in (8, 16)):
        raise FormatError(
            f"{path}: found a JPEG 2000 of {header.bits} bit samples; supported: up to 16 bit"
        )
    dtype: Dtype = "int16" if header.signed else "uint8" if header.bits <= 8 else "uint16"

    # The decoder holds its samples as 32 bit integers beside the result.
    whole = header.height * header.width * header.samples * (4 + ITEMSIZE[dtype])
    # By areas GDAL holds the compressed data of a tile, and the area twice.
    area = decode_by_gdal.AREA**2 * header.samples * (8 + ITEMSIZE[dtype])
    by_areas = _GDAL_BYTES + header.tile_bytes + area
    too_large = whole > MAX_WHOLE_BYTES - 2 * BLOCK_BYTES
    by_gdal = too_large and by_areas < whole and decode_by_gdal.available()

    def decoder(max_bytes: int | None) -> Decoder:
        if by_gdal:
            return GdalDecoder(path, "JPEG 2000", shape, dtype)
        return WholeDecoder(path, "JPEG 2000", data, shape, whole, max_bytes)

    return _Stored(
        height=header.height,
        width=header.width,
        samples=header.samples,
        bits=header.bits,
        dtype=dtype,
        alpha=header.alpha,
        icc=header.icc,
        decoder=decoder,
        memory=by_areas if by_gdal else whole,
        grain=(decode_by_gdal.AREA, decode_by_gdal.AREA) if by_gdal else None,
        conversion=SampleConversion,
        coding=lossy_wavelet(data[: 1 << 16]),
        notes=(_BY_GDAL,) if by_gdal else (),
    )


def _pnm(path: str, data: Data) -> _Stored:
    """Read a binary PGM or PPM. Source: netpbm, pgm(5) and ppm(5)."""
    header = _PNM.match(data[:4096])
    if header is None:
        raise FormatError(
            f"{path}: the PGM or PPM header cannot be read; convert it: magick in.pgm out.png"
        )
    samples = 1 if header[1] == b"P5" else 3
    width = int(header[2])
    height = int(header[3])
    peak = int(header[4])
    if min(width, height) < 1 or not 1 <= peak <= 65535:
        raise FormatError(
            f"{path}: the header says {height} x {width} px (H x W) up to {peak}; "
            "the file is damaged"
        )
    two_bytes = peak > 255
    dtype = np.dtype(">u2" if two_bytes else "u1")
    count = height * width * samples
    start = header.end()
    if start + count * dtype.itemsize > len(data):
        raise FormatError(
            f"{path}: the file is truncated: {len(data)} bytes; get it again from its source"
        )
    pixels = np.frombuffer(data, dtype, count, start).reshape(height, width, samples)
    return _Stored(
        height=height,
        width=width,
        samples=samples,
        bits=peak.bit_length(),
        peak=peak,
        dtype="uint16" if two_bytes else "uint8",
        decoder=lambda _: ArrayDecoder(pixels),
        memory=0,
        conversion=SampleConversion,
        lazy=True,
    )
