"""PNG, JPEG, JPEG 2000 and PNM: formats without windows, read from top to bottom, by pieces, or
decoded whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from storage.box import Box
from storage.byte_source import ByteSource, Data
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
from storage.readers.common.sample_conversion import ConvertingReader, Decoder, SampleConversion
from storage.readers.common.staging_blocks import BLOCK_BYTES, cut
from storage.readers.raster import decode_by_gdal, jpeg, jpeg2000, png
from storage.readers.raster.decode_by_gdal import GdalDecoder
from storage.readers.raster.decode_whole import WholeDecoder
from storage.readers.raster.png_rows import PngRowDecoder

if TYPE_CHECKING:
    from storage.image import Dtype, Pixels

Kind = Literal["PNG", "JPEG", "JPEG 2000", "PNM"]
# What streaming a PNG and GDAL's decoders hold besides the window: bands of a PNG, GDAL's cache and
# buffers.
_STREAM_BYTES = 12 << 20
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
    icc: bytes | None = None
    orientation: int = 1
    decoder: Callable[[int | None], Decoder]
    """Makes the decoder, given the limit on what decoding takes; None: allowed."""
    memory: int
    """Bytes that decoding takes at its peak, besides the window that is read."""
    grain: tuple[int, int] | None = None
    """(y, x) of what is decoded at a time; None: rows, or everything."""
    conversion: Callable[[tuple[int, ...]], SampleConversion]
    notes: tuple[str, ...] = ()
    lazy: bool = False


def inspect_whole(
    path: str, kind: Kind, selection: Selection = EVERYTHING, *, max_pixels: int = MAX_WHOLE_PIXELS
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
    return ConvertingReader(
        info, stored.decoder(MAX_WHOLE_BYTES if max_pixels is None else None), conversion
    )


def _described(
    path: str, kind: Kind, selection: Selection, limit: int
) -> tuple[ImageInfo, _Stored, SampleConversion]:
    with ByteSource(path) as source:
        name = source.name
        data = source.data()
    read = {"PNG": _png, "JPEG": _jpeg, "JPEG 2000": _jpeg_2000, "PNM": _pnm}[kind]
    stored = read(name, data)
    check_size(name, stored.height, stored.width, limit)
    choose_frames(name, selection, {})
    bands = choose_bands(name, selection.channel, stored.samples, stored.alpha)
    conversion = stored.conversion(bands)
    turned = exif.swaps_sides(stored.orientation)
    notes = list(stored.notes)
    if stored.alpha is not None and stored.alpha not in bands:
        kept = ",".join(map(str, range(stored.samples)))
        notes.append(f"the unassociated alpha channel is left out; --channel {kept} keeps it")
    channels = 3 if conversion.palette is not None else len(bands)
    dtype: Dtype = "uint8" if conversion.palette is not None or conversion.bilevel else stored.dtype
    height, width = (stored.width, stored.height) if turned else (stored.height, stored.width)
    block = cut(height, width, channels * ITEMSIZE[dtype], stored.grain, turned=turned)
    info = ImageInfo(
        path=name,
        format=kind,
        height=height,
        width=width,
        channels=channels,
        dtype=dtype,
        bits=stored.bits,
        lazy=stored.lazy,
        why_staged="" if stored.lazy else f"a {kind} has no windows: it is read from its beginning",
        layout="rows" if stored.lazy else "whole",
        grain=stored.grain,
        staging_bytes=0 if stored.lazy else stored.memory + 2 * block.nbytes,
        limits=_limits(stored, dtype),
        alpha="" if stored.alpha is None else "unassociated",
        icc=stored.icc,
        orientation=stored.orientation,
        notes=tuple(notes),
    )
    return info, stored, conversion


def _limits(stored: _Stored, dtype: Dtype) -> tuple[float, float] | None:
    if dtype == "uint8" and stored.bits in (1, 8):
        return 0.0, 255.0
    return None if dtype == "int16" else (0.0, float(stored.peak or (1 << stored.bits) - 1))


def _png(path: str, data: Data) -> _Stored:
    header = png.read_header(path, data)
    grey_bits = header.bits < 8 and header.palette is None
    notes = []
    palette = None
    if header.palette is not None:
        table = np.zeros((3, 1 << header.bits), np.uint8)
        colours = np.frombuffer(header.palette[: 3 << header.bits], np.uint8)
        table[:, : len(colours) // 3] = colours[: len(colours) // 3 * 3].reshape(-1, 3).T
        palette = table
        notes.append("palette colours are expanded to RGB")
    if header.transparent:
        notes.append("transparency (tRNS) is left out")
    if header.bits == 1 and grey_bits:
        notes.append("1 bit samples become 0 and 255")
    if header.interlaced and (header.bits < 8 or palette is not None):
        raise FormatError(
            f"{path}: an interlaced PNG of {header.bits} bit samples; save it without: magick -interlace none"
        )
    raw = header.height * header.width * header.samples * -(-header.bits // 8)

    def decoder(max_bytes: int | None) -> Decoder:
        if not header.interlaced:
            return PngRowDecoder(path, data, header)
        shape = (header.height, header.width, header.samples)
        return WholeDecoder(
            path, "PNG", data, shape, raw, max_bytes, before=lambda: png.check(path, data)
        )

    return _Stored(
        height=header.height,
        width=header.width,
        samples=header.samples,
        bits=header.bits,
        dtype="uint16" if header.bits == 16 else "uint8",
        alpha=header.samples - 1 if header.samples in (2, 4) else None,
        icc=header.icc,
        orientation=header.orientation,
        decoder=decoder,
        memory=raw if header.interlaced else min(_STREAM_BYTES + 8 * raw // header.height, 6 * raw),
        conversion=lambda bands: SampleConversion(
            samples=bands, palette=palette, bilevel=grey_bits and header.bits == 1
        ),
        notes=tuple(notes),
    )


def _jpeg(path: str, data: Data) -> _Stored:
    header = jpeg.read_header(path, data)
    shape = (header.height, header.width, header.channels)
    raw = header.height * header.width * header.channels
    by_gdal = (
        raw > MAX_WHOLE_BYTES - 2 * BLOCK_BYTES and header.by_rows and decode_by_gdal.available()
    )

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
        conversion=lambda bands: SampleConversion(samples=bands),
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
    # The decoder holds its samples as 32 bit integers beside the result; by pieces it holds the
    # tile's compressed data.
    whole = header.height * header.width * header.samples * (4 + ITEMSIZE[dtype])
    partly = (
        _GDAL_BYTES
        + header.tile_bytes
        + decode_by_gdal.AREA**2 * header.samples * (8 + ITEMSIZE[dtype])
    )
    by_gdal = (
        whole > MAX_WHOLE_BYTES - 2 * BLOCK_BYTES and partly < whole and decode_by_gdal.available()
    )

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
        alpha=header.samples - 1 if header.samples in (2, 4) else None,
        icc=header.icc,
        decoder=decoder,
        memory=partly if by_gdal else whole,
        grain=(decode_by_gdal.AREA, decode_by_gdal.AREA) if by_gdal else None,
        conversion=lambda bands: SampleConversion(samples=bands),
        notes=(_BY_GDAL,) if by_gdal else (),
    )


def _pnm(path: str, data: Data) -> _Stored:
    """Read a binary PGM or PPM. Source: netpbm, pgm(5) and ppm(5)."""
    found = _PNM.match(data[:4096])
    if found is None:
        raise FormatError(
            f"{path}: the PGM or PPM header cannot be read; convert it: magick in.pgm out.png"
        )
    samples = 1 if found[1] == b"P5" else 3
    (width, height, peak) = (int(found[i]) for i in (2, 3, 4))
    if min(width, height) < 1 or not 1 <= peak <= 65535:
        raise FormatError(
            f"{path}: the header says {height} x {width} px (H x W) up to {peak}; the file is damaged"
        )
    stored = np.dtype(">u2" if peak > 255 else "u1")
    if found.end() + height * width * samples * stored.itemsize > len(data):
        raise FormatError(
            f"{path}: the file is truncated: {len(data)} bytes; get it again from its source"
        )
    pixels = np.frombuffer(data, stored, height * width * samples, found.end()).reshape(
        height, width, samples
    )
    return _Stored(
        height=height,
        width=width,
        samples=samples,
        bits=peak.bit_length(),
        peak=peak,
        dtype="uint16" if peak > 255 else "uint8",
        decoder=lambda _: _ArrayDecoder(pixels),
        memory=0,
        conversion=lambda bands: SampleConversion(samples=bands),
        lazy=True,
    )


class _ArrayDecoder:
    """Windows of an array (H, W, S) that is mapped into memory."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w); see `Decoder.read`."""
        window = self._pixels[box.slices()][..., list(samples)].transpose(2, 0, 1)
        return window.astype(window.dtype.newbyteorder("="))

    def close(self) -> None:
        """Release the mapping."""
        self._pixels = self._pixels[:0]
