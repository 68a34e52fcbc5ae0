"""Write a published image as a tiled TIFF with its pyramid, tile by tile: reduced pages, or SubIFDs with OME-XML.

reduced pages (subfiletype 1, after the image)   OpenSlide, GDAL, QuPath, vips; GeoTIFF
SubIFDs and OME-XML (OME-TIFF 6)                 Bio-Formats, QuPath, napari, tifffile; OpenSlide sees level 0
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from storage.box import Box
from storage.geotiff import Tag
from storage.meaning import Meaning
from storage.published import PublishedImage

Progress = Callable[[int, int], None]
Pixels = NDArray[Any]

COMPRESSIONS: dict[str, dict[str, Any]] = {
    "none": {"compression": None},
    "deflate": {"compression": "adobe_deflate", "compressionargs": {"level": 1}, "predictor": True},
    "zstd": {"compression": "zstd", "compressionargs": {"level": 1}, "predictor": True},
    "lzw": {"compression": "lzw", "predictor": True},
    "jpeg": {"compression": "jpeg"},
}
"""All lossless but jpeg: deflate opens everywhere, zstd is several times as fast; higher levels gain little."""
TILE = 512
# Tiles are read from the source in blocks of this many columns: the width of a published shard.
_BLOCK = 2048
# tifffile collects encoded tiles up to so many bytes before it writes them.
_BUFFER = 16 << 20
# Classic TIFF counts bytes in 32 bits; the reserve is for tables and for data that compression makes larger.
CLASSIC_LIMIT = (1 << 32) - (1 << 28)
_MICROMETRES_PER_CM = 1e4


def write_tiff(
    file: Path,
    image: PublishedImage,
    *,
    levels: int,
    ome: bool,
    compression: str,
    quality: int,
    tags: Sequence[Tag] = (),
    progress: Progress | None = None,
) -> None:
    """Write the first `levels` levels of `image`; BigTIFF where the pixels may pass 4 GiB.

    ome: SubIFDs with OME-XML, bands of anything but RGB as planes; else reduced pages, bands interleaved.
    tags: further tags of the first page. Memory: some rows of tiles, whatever the image's size.
    """
    planar = ome and not _rgb(image)
    total = sum(_tile_count(image, number, planar) for number in range(levels))
    count = _Counter(total, progress)
    codec = dict(COMPRESSIONS[compression])
    if compression == "jpeg":
        codec["compressionargs"] = {"level": quality}
    with tifffile.TiffWriter(file, bigtiff=image.nbytes(levels) > CLASSIC_LIMIT, ome=ome) as tiff:
        for number in range(levels):
            first = number == 0
            options: dict[str, Any] = {"metadata": None}
            if first and ome:
                options = {"metadata": _ome_metadata(image), "subifds": levels - 1}
            tiff.write(
                count.each(_planes(image, number) if planar else _tiles(image, number)),
                shape=_shape(image, number, planar),
                dtype=np.dtype(image.dtype).newbyteorder("<"),
                tile=(TILE, TILE),
                photometric="rgb" if _rgb(image) else "minisblack",
                planarconfig="contig" if image.channels > 1 and not planar else None,
                subfiletype=0 if first else 1,
                iccprofile=image.meaning.icc if first else None,
                extratags=list(tags) if first else [],
                software="gigarestore",
                buffersize=_BUFFER,
                maxworkers=2,
                **codec,
                **_resolution(image.meaning, number),
                **options,
            )


def _rgb(image: PublishedImage) -> bool:
    """Tell whether the bands are colours: three of a whole unsigned dtype that nothing named otherwise."""
    return image.channels == 3 and image.dtype in ("uint8", "uint16")


def _shape(image: PublishedImage, number: int, planar: bool) -> tuple[int, ...]:
    channels, height, width = image.levels[number].shape
    if channels == 1:
        return height, width
    return (channels, height, width) if planar else (height, width, channels)


def _resolution(meaning: Meaning, number: int) -> dict[str, Any]:
    """Return the resolution tags of a level, pixels per centimetre as (x, y)."""
    if meaning.pixel_size is None:
        return {}
    size_y, size_x = (side * 2**number for side in meaning.pixel_size)
    return {"resolution": (_MICROMETRES_PER_CM / size_x, _MICROMETRES_PER_CM / size_y), "resolutionunit": "CENTIMETER"}


def _ome_metadata(image: PublishedImage) -> dict[str, Any]:
    channels = image.channels
    told = json.dumps([image.levels[0].shape, image.dtype, image.provenance], sort_keys=True)
    metadata: dict[str, Any] = {
        "axes": "YXS" if _rgb(image) else "YX" if channels == 1 else "CYX",
        "Name": image.path.stem,
        "Creator": "gigarestore",
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, told)),  # the same export gives the same bytes
    }
    if image.meaning.pixel_size is not None:
        size_y, size_x = image.meaning.pixel_size
        metadata |= {"PhysicalSizeX": size_x, "PhysicalSizeXUnit": "µm"}
        metadata |= {"PhysicalSizeY": size_y, "PhysicalSizeYUnit": "µm"}
    if len(image.meaning.names) == channels and not _rgb(image):
        metadata["Channel"] = {"Name": list(image.meaning.names)}
    return metadata


def _tile_count(image: PublishedImage, number: int, planar: bool) -> int:
    channels, height, width = image.levels[number].shape
    return -(-height // TILE) * -(-width // TILE) * (channels if planar else 1)


def _tiles(image: PublishedImage, number: int) -> Iterator[Pixels]:
    """Yield the tiles of a level, (512, 512) or (512, 512, C), row by row, padded with zeros at the far edges."""
    channels = image.channels
    for pixels in _parts(image, number):
        tile = np.empty((TILE, TILE, channels), image.dtype)
        if pixels.shape[1:] != (TILE, TILE):
            tile[...] = 0
        height, width = pixels.shape[1:]
        for channel in range(channels):  # band by band: several times faster than a transposed copy
            tile[:height, :width, channel] = pixels[channel]
        yield tile[:, :, 0] if channels == 1 else tile


def _planes(image: PublishedImage, number: int) -> Iterator[Pixels]:
    """Yield the tiles of a level, (512, 512), one band after the other."""
    for channel in range(image.channels):
        for pixels in _parts(image, number, channel):
            tile = np.zeros((TILE, TILE), image.dtype)
            height, width = pixels.shape[1:]
            tile[:height, :width] = pixels[0]
            yield tile


def _parts(image: PublishedImage, number: int, channel: int | None = None) -> Iterator[Pixels]:
    """Yield (C, h, w) under the tiles of a level, row by row; with `channel` of that band only."""
    _, height, width = image.levels[number].shape
    for y0 in range(0, height, TILE):
        for left in range(0, width, _BLOCK):
            block = Box(y0, left, min(y0 + TILE, height), min(left + _BLOCK, width))
            pixels = image.read(number, block, channel)
            for x0 in range(0, block.width, TILE):
                yield pixels[:, :, x0 : x0 + TILE]


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
