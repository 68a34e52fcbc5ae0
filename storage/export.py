"""Export a published image to one file that other programs open: PNG, or a tiled TIFF with its pyramid."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import tifffile

from storage import files, png, zarr_meta
from storage.box import Box
from storage.errors import FormatError, human_bytes
from storage.image import ImageInfo
from storage.zarr_image import ZarrReader, inspect_zarr

if TYPE_CHECKING:
    from storage.image import Pixels

Progress = Callable[[int, int], None]
MAX_PNG_BYTES = 1 << 30
"""Default limit on the pixels of a PNG, bytes: it is made whole in memory, and few programs open a larger one."""
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "none": {"compression": None},
    "deflate": {"compression": "adobe_deflate", "compressionargs": {"level": 1}, "predictor": True},
    "zstd": {"compression": "zstd", "compressionargs": {"level": 1}, "predictor": True},
    "lzw": {"compression": "lzw", "predictor": True},
}
"""TIFF compressions, all lossless: deflate opens everywhere, zstd is twice as fast; higher levels gain little."""
_SUFFIXES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
_TILE = 512
# Classic TIFF counts bytes in 32 bits; the reserve is for tables and for data that compression makes larger.
_CLASSIC_LIMIT = (1 << 32) - (1 << 28)
# Tiles are read from the source in blocks of this many columns: the width of a published shard.
_BLOCK = 2048
_MICROMETRES_PER_CM = 1e4


def export(
    source: Path | str,
    file: Path | str,
    *,
    overwrite: bool = False,
    pyramid: bool = True,
    compression: str = "deflate",
    max_png_bytes: int = MAX_PNG_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write the published image `source` to `file`; the suffix chooses the format.

    PNG: 8 or 16 bit, grey or RGB, limited to `max_png_bytes` of pixels. TIFF: tiles of 512 px, streamed, BigTIFF when
    needed; with `pyramid` the published levels follow as reduced pages, which OpenSlide, GDAL and QuPath read.
    The colour profile and the pixel size go along. `file` appears complete or not at all.
    progress: (done, total) tiles, for TIFF.
    Raises FormatError for an unknown suffix or compression, an existing file without `overwrite`, a PNG too large.
    """
    source, file = str(source), Path(file)
    kind = _kind(file)
    if compression not in COMPRESSIONS:
        raise FormatError(f"compression {compression!r} is not known; choose one of {', '.join(COMPRESSIONS)}")
    info = inspect_zarr(source)
    if kind == "PNG" and info.nbytes > max_png_bytes:
        raise FormatError(
            f"{file}: {human_bytes(info.nbytes)} of pixels, above the limit of {human_bytes(max_png_bytes)} for a PNG, "
            f"which is made in memory; export to {file.with_suffix('.tif').name} instead"
        )
    with files.atomic_output(file, overwrite=overwrite) as temporary:
        if kind == "PNG":
            temporary.write_bytes(_png(info, ZarrReader(source)))
        else:
            levels = _levels(source) if pyramid else 1
            _write_tiff(temporary, source, levels, COMPRESSIONS[compression], progress)


def _kind(file: Path) -> str:
    if file.name.lower().endswith((".ome.tif", ".ome.tiff")):
        raise FormatError(f"{file}: OME-TIFF cannot be written; choose a name that ends in {', '.join(_SUFFIXES)}")
    kind = _SUFFIXES.get(file.suffix.lower())
    if kind is None:
        ending = f"suffix {file.suffix!r}" if file.suffix else "no suffix"
        raise FormatError(f"{file}: {ending}; the formats that can be written are {', '.join(_SUFFIXES)}")
    return kind


def _levels(source: str) -> int:
    return len(zarr_meta.load(Path(source))["attributes"]["ome"]["multiscales"][0]["datasets"])


def _png(info: ImageInfo, reader: ZarrReader) -> bytes:
    if info.channels not in (1, 3):
        raise FormatError(f"{info.path}: a PNG holds 1 or 3 bands, not {info.channels}; export to .tif")
    pixels = reader.read(info.box)
    rows = pixels[0] if info.channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    encoded = bytes(imagecodecs.png_encode(rows))
    if info.icc is None:
        return encoded
    end_of_header = len(png.SIGNATURE) + 12 + 13  # IHDR: length, name, 13 bytes, CRC
    chunk = b"iCCP" + b"ICC profile\0\0" + zlib.compress(info.icc)
    profile = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return encoded[:end_of_header] + profile + encoded[end_of_header:]


def _write_tiff(file: Path, source: str, levels: int, compression: dict[str, Any], progress: Progress | None) -> None:
    readers = [ZarrReader(source, level) for level in range(levels)]
    size = sum(reader.info.nbytes for reader in readers)
    counter = _Counter(sum(_tile_count(reader.info) for reader in readers), progress)
    with tifffile.TiffWriter(file, bigtiff=size > _CLASSIC_LIMIT) as tiff:
        for number, reader in enumerate(readers):
            info = reader.info
            colour: dict[str, Any] = {"photometric": "rgb"} if info.channels == 3 else {"photometric": "minisblack"}
            if info.channels not in (1, 3):
                colour["planarconfig"] = "contig"  # or the bands would be taken for pages
            tiff.write(
                counter.each(_tiles(reader)),
                shape=(info.height, info.width) if info.channels == 1 else (info.height, info.width, info.channels),
                dtype=info.dtype,
                tile=(_TILE, _TILE),
                subfiletype=1 if number else 0,
                iccprofile=None if number else info.icc,
                metadata=None,
                maxworkers=2,
                **compression,
                **colour,
                **_resolution(info),
            )


def _resolution(info: ImageInfo) -> dict[str, Any]:
    """Return the resolution tags, pixels per centimetre as (x, y)."""
    if info.pixel_size is None:
        return {}
    size_y, size_x = info.pixel_size
    return {"resolution": (_MICROMETRES_PER_CM / size_x, _MICROMETRES_PER_CM / size_y), "resolutionunit": "CENTIMETER"}


def _tile_count(info: ImageInfo) -> int:
    return -(-info.height // _TILE) * -(-info.width // _TILE)


def _tiles(reader: ZarrReader) -> Iterator[Pixels]:
    """Yield the tiles of a level, (512, 512) or (512, 512, C), row by row, padded with zeros at the far edges."""
    info = reader.info
    for y0 in range(0, info.height, _TILE):
        for left in range(0, info.width, _BLOCK):
            block = Box(y0, left, min(y0 + _TILE, info.height), min(left + _BLOCK, info.width))
            pixels = reader.read(block).transpose(1, 2, 0)
            for x0 in range(0, block.width, _TILE):
                tile = np.zeros((_TILE, _TILE, info.channels), info.dtype)
                part = pixels[:, x0 : x0 + _TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile[:, :, 0] if info.channels == 1 else tile


class _Counter:
    """Count tiles of all levels for a progress display."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def each(self, tiles: Iterator[Pixels]) -> Iterator[Pixels]:
        for tile in tiles:
            self._done += 1
            if self._progress:
                self._progress(self._done, self._total)
            yield tile
