"""Write a published image as a tiled TIFF with its pyramid, tile by tile.

Its coarser levels are
    reduced pages (subfiletype 1, after the image): OpenSlide, GDAL, QuPath, vips; GeoTIFF
    SubIFDs and OME-XML (OME-TIFF 6): Bio-Formats, QuPath, napari, tifffile; OpenSlide sees level 0

All tables come first, then the tiles of the smallest level, at last those of the image: the order
of a Cloud Optimized GeoTIFF. tifffile writes the tables, of tiles that are still empty.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from storage.export.geotiff import Tag
from storage.export.tiff_tiles import TILE, MaskEncoder, TileEncoder
from storage.image_metadata import ImageMetadata
from storage.zarr_format.published_image import PublishedImage

Progress = Callable[[int, int], None]

COMPRESSIONS: dict[str, dict[str, Any]] = {
    "none": {"compression": "none"},
    "deflate": {"compression": "adobe_deflate", "predictor": True},
    "zstd": {"compression": "zstd", "predictor": True},
    "lzw": {"compression": "lzw", "predictor": True},
    "jpeg": {"compression": "jpeg"},
}
"""All lossless but jpeg: deflate opens everywhere, zstd is several times as fast."""
# Classic TIFF counts bytes in 32 bits; the reserve is for tables and for data that compression
# makes larger.
CLASSIC_LIMIT = (1 << 32) - (1 << 28)
_MICROMETRES_PER_CM = 1e4
# What tells GDAL that a file is a COG, and that every tile lies between its length and its last
# four bytes (GDAL's COG driver, "Header ghost area").
_LAYOUT = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n%s" % (len(_LAYOUT), _LAYOUT)
# Bits of a page's subfile type.
_REDUCED = 1
_MASK = 4
_TILE_OFFSETS = 324
_TILE_BYTE_COUNTS = 325
# Formats of the types in which tables count bytes: SHORT, LONG, LONG8.
_TABLES = {
    3: "<u2",
    4: "<u4",
    16: "<u8",
}


@dataclass(frozen=True, slots=True)
class _Page:
    """Where the tables of a page lie in the file: (first byte, number format)."""

    tiles: int
    offsets: tuple[int, str]
    counts: tuple[int, str]


def write_tiff(
    file: Path,
    image: PublishedImage,
    *,
    levels: int,
    ome: bool = False,
    cog: bool = False,
    compression: str,
    quality: int,
    tags: Sequence[Tag] = (),
    progress: Progress | None = None,
) -> None:
    """Write the first `levels` levels of `image`; BigTIFF where the pixels may pass 4 GiB.

    ome: SubIFDs with OME-XML, bands of anything but RGB as planes; else reduced pages, bands
    interleaved. cog: say that the file is a Cloud Optimized GeoTIFF. tags: further tags of the
    first page. Memory: some tiles and the tables of the file, 16 bytes for every tile.
    """
    planar = ome and not _rgb(image)
    validity = None if ome else image.open_validity()
    alpha = validity if _as_alpha(image, levels, compression) else None
    masks = None
    if validity is not None and alpha is None:
        masks = MaskEncoder(validity, 1 if _for_slide_viewers(image) else levels)
    with ThreadPoolExecutor(2) as pool:
        encoder = TileEncoder(
            image,
            pool,
            planar=planar,
            compression=compression,
            quality=quality,
            alpha=alpha,
        )
        counts = [encoder.count(number) for number in range(levels)]
        _write_tables(
            file,
            image,
            counts,
            ome=ome,
            cog=cog,
            planar=planar,
            compression=compression,
            tags=tags,
            alpha=alpha is not None,
            masks=masks,
        )
        pages = _pages(file, levels, masks, ome=ome)
        with file.open("r+b") as target:
            _write_tiles(target, encoder, masks, pages, cog=cog, progress=progress)


def _write_tiles(
    target: BinaryIO,
    encoder: TileEncoder,
    masks: MaskEncoder | None,
    pages: list[list[_Page]],
    *,
    cog: bool,
    progress: Progress | None,
) -> None:
    """Append the tiles of all levels, the smallest first.

    pages: of every level; with masks the last of them is the mask's.
    """
    total = sum(encoder.count(number) for number in range(len(pages)))
    done = 0
    target.seek(0, 2)
    for number in reversed(range(len(pages))):
        tiles = encoder.tiles(number)
        masked = masks is not None and number < masks.levels
        for page in pages[number][:-1] if masked else pages[number]:
            places = []
            for stored in itertools.islice(tiles, page.tiles):
                place = _append(target, stored, cog=cog)
                places.append(place)
                done += 1
                if progress:
                    progress(done, total)
            _fill(target, page, places)
        if masks is not None and masked:
            mask_tiles = [_append(target, stored, cog=cog) for stored in masks.tiles(number)]
            _fill(target, pages[number][-1], mask_tiles)


def _write_tables(
    file: Path,
    image: PublishedImage,
    counts: Sequence[int],
    *,
    ome: bool,
    cog: bool,
    planar: bool,
    compression: str,
    tags: Sequence[Tag],
    alpha: bool,
    masks: MaskEncoder | None,
) -> None:
    """Write the file without the bytes of its tiles. counts: tiles of every level."""
    bands = 1 if planar else image.channels + alpha
    bigtiff = _needs_bigtiff(image, sum(counts), bands=bands, compression=compression)
    dtype = np.dtype(image.dtype).newbyteorder("<")
    with tifffile.TiffWriter(file, bigtiff=bigtiff, ome=ome) as tiff:
        if cog:
            padding = b" " * (len(_GHOST) % 2)
            tiff.filehandle.write(_GHOST + padding)
        for number, tiles in enumerate(counts):
            first = number == 0
            options: dict[str, Any] = {"metadata": None}
            if first and ome:
                options = {"metadata": _ome_metadata(image), "subifds": len(counts) - 1}
            tiff.write(
                _empty_tiles(image.levels[number].shape, tiles, compression),
                shape=_shape(image, number, planar, alpha=alpha),
                dtype=dtype,
                tile=(TILE, TILE),
                photometric="rgb" if _rgb(image) else "minisblack",
                planarconfig="contig" if image.channels + alpha > 1 and not planar else None,
                extrasamples=[_alpha_kind(image)] if alpha else None,
                subfiletype=0 if first else 1,
                iccprofile=image.metadata.icc if first else None,
                extratags=list(tags) if first else [],
                software="gigarestore",
                align=2,
                **COMPRESSIONS[compression],
                **_resolution(image.metadata, number),
                **options,
            )
            if masks is not None and number < masks.levels:
                _write_mask_tables(tiff, image.levels[number].shape, masks.count(number), number)


def _write_mask_tables(
    tiff: tifffile.TiffWriter, shape: tuple[int, int, int], tiles: int, number: int
) -> None:
    """Write the page of a level's mask without the bytes of its tiles: a bit a pixel."""
    tiff.write(
        iter([b""] * tiles),
        shape=shape[1:],
        dtype=bool,
        tile=(TILE, TILE),
        photometric="mask",
        compression="adobe_deflate",
        subfiletype=_MASK if number == 0 else _MASK | _REDUCED,
        metadata=None,
        software=False,
        align=2,
    )


def _needs_bigtiff(
    image: PublishedImage,
    tiles: int,
    *,
    bands: int,
    compression: str,
) -> bool:
    """Tell whether the tiles may pass what a classic TIFF can count. bands: of a tile."""
    itemsize = np.dtype(image.dtype).itemsize
    # Tiles are padded to full size; LZW makes noise up to 1.4 times as large.
    uncompressed = tiles * TILE * TILE * bands * itemsize
    growth = 1.5 if compression == "lzw" else 1.0
    return uncompressed * growth > CLASSIC_LIMIT


def _empty_tiles(
    shape: tuple[int, int, int],
    tiles: int,
    compression: str,
) -> Iterator[bytes] | None:
    """Return what tifffile writes as the tiles of a level: nothing.

    Pages that are one plain tile it writes as one array and leaves a hole of that size, which stays
    empty.
    """
    one_plain_tile = compression == "none" and shape[1:] == (TILE, TILE)
    return None if one_plain_tile else iter([b""] * tiles)


def _pages(
    file: Path,
    levels: int,
    masks: MaskEncoder | None,
    *,
    ome: bool,
) -> list[list[_Page]]:
    """Return the pages of every level: one, one and its mask, or one for every band."""
    with tifffile.TiffFile(file, is_ome=False) as tiff:
        pages: list[Any] = list(tiff.pages)
        if not ome:
            left = map(_page, pages)
            masked = 0 if masks is None else masks.levels
            counts = [2 if number < masked else 1 for number in range(levels)]
            return [list(itertools.islice(left, count)) for count in counts]
        finest = [_page(page) for page in pages]
        # The coarser levels of a band are SubIFDs of its page.
        below = [list(page.pages) if levels > 1 else [] for page in pages]
        coarser = [[_page(subifds[number]) for subifds in below] for number in range(levels - 1)]
        return [finest, *coarser]


def _page(page: Any) -> _Page:
    offsets = page.tags[_TILE_OFFSETS]
    counts = page.tags[_TILE_BYTE_COUNTS]
    return _Page(
        int(offsets.count),
        (int(offsets.valueoffset), _TABLES[int(offsets.dtype)]),
        (int(counts.valueoffset), _TABLES[int(counts.dtype)]),
    )


def _append(
    file: BinaryIO,
    data: memoryview | bytes,
    *,
    cog: bool,
) -> tuple[int, int]:
    """Write a tile and return (offset, length)."""
    if cog:
        file.write(len(data).to_bytes(4, "little"))
    place = file.tell(), len(data)
    file.write(data)
    if cog:
        file.write(data[-4:])
    return place


def _fill(
    file: BinaryIO,
    page: _Page,
    places: list[tuple[int, int]],
) -> None:
    """Enter where the tiles of a page lie; the file is left at its end."""
    columns = ((page.offsets, 0), (page.counts, 1))
    for (start, kind), column in columns:
        numbers = [place[column] for place in places]
        file.seek(start)
        file.write(np.array(numbers, kind).tobytes())
    file.seek(0, 2)


def _rgb(image: PublishedImage) -> bool:
    """Tell whether the bands are colours: three of a whole unsigned dtype."""
    return image.channels == 3 and image.dtype in ("uint8", "uint16")


def _shape(
    image: PublishedImage,
    number: int,
    planar: bool,
    *,
    alpha: bool,
) -> tuple[int, ...]:
    channels, height, width = image.levels[number].shape
    channels += alpha
    if channels == 1:
        return height, width
    return (channels, height, width) if planar else (height, width, channels)


def _as_alpha(image: PublishedImage, levels: int, compression: str) -> bool:
    """Tell whether validity is written as an alpha channel, else as masks.

    As the source had it; and where viewers of slides are to open a pyramid, which take a coarser
    mask for a level of their own (OpenSlide 4).
    """
    whole_unsigned = image.dtype in ("uint8", "uint16")
    if not image.metadata.mask or not whole_unsigned or compression == "jpeg":
        return False
    as_before = image.metadata.mask in ("alpha", "associated")
    return as_before or (levels > 1 and _for_slide_viewers(image))


def _alpha_kind(image: PublishedImage) -> str:
    """Return the name of the extra sample: whether colours are multiplied by it."""
    return "assocalpha" if image.metadata.mask == "associated" else "unassalpha"


def _for_slide_viewers(image: PublishedImage) -> bool:
    """Tell whether an image is of the kind that viewers of slides open."""
    eight_bit_colours = image.dtype == "uint8" and image.channels in (1, 3)
    return eight_bit_colours and image.metadata.geo is None


def _resolution(metadata: ImageMetadata, number: int) -> dict[str, Any]:
    """Return the resolution tags of a level, pixels per centimetre as (x, y)."""
    if metadata.pixel_size is None:
        return {}
    coarser = 2**number
    size_y, size_x = metadata.pixel_size
    per_cm_y = _MICROMETRES_PER_CM / (size_y * coarser)
    per_cm_x = _MICROMETRES_PER_CM / (size_x * coarser)
    return {"resolution": (per_cm_x, per_cm_y), "resolutionunit": "CENTIMETER"}


def _ome_metadata(image: PublishedImage) -> dict[str, Any]:
    channels = image.channels
    rgb = _rgb(image)
    # The same export gives the same bytes: the identifier is made from what is exported.
    identity = [image.levels[0].shape, image.dtype, image.provenance]
    uuid_text = json.dumps(identity, sort_keys=True)
    ome: dict[str, Any] = {
        "axes": "YXS" if rgb else "YX" if channels == 1 else "CYX",
        "Name": image.path.stem,
        "Creator": "gigarestore",
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, uuid_text)),
    }
    if image.metadata.pixel_size is not None:
        size_y, size_x = image.metadata.pixel_size
        ome["PhysicalSizeX"] = size_x
        ome["PhysicalSizeXUnit"] = "µm"
        ome["PhysicalSizeY"] = size_y
        ome["PhysicalSizeYUnit"] = "µm"
    if len(image.metadata.names) == channels and not rgb:
        ome["Channel"] = {"Name": list(image.metadata.names)}
    return ome
