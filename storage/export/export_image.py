"""Export a published image to one file that other programs open, in bounded memory.

The file appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from storage import atomic_files
from storage.errors import FormatError, human_bytes
from storage.export import geotiff, png_jpeg, tiff_writer
from storage.export.tiff_writer import COMPRESSIONS
from storage.image_metadata import ImageMetadata
from storage.zarr_format.published_image import PublishedImage

Progress = Callable[[int, int], None]
MAX_WHOLE_BYTES = 256 << 20
"""Limit on the pixels of a PNG or JPEG, bytes.

Pixels and file are whole in memory, which stays below 768 MiB.
"""
FORMATS = ("tiff", "ome-tiff", "geotiff", "cog", "png", "jpeg")
"""What can be written: a tiled TIFF with its pyramid in four dialects, and two small formats."""
QUALITY = 90
"""Default quality of JPEG compression."""
_SUFFIXES = {
    ".ome.tif": "ome-tiff",
    ".ome.tiff": "ome-tiff",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
}
_TIFF_SUFFIXES = (".tif", ".tiff")
_WITHOUT_VALIDITY = {"jpeg": "JPEG", "ome-tiff": "OME-TIFF"}
# Formats that are made in memory, as a whole.
_IN_MEMORY = ("png", "jpeg")


def export(
    source: Path | str,
    file: Path | str,
    *,
    format: str | None = None,
    overwrite: bool = False,
    pyramid: bool = True,
    compression: str | None = None,
    quality: int = QUALITY,
    max_whole_bytes: int = MAX_WHOLE_BYTES,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Write the published image `source` to `file`; return what the format has no place for.

    format: one of FORMATS; by default what the suffix says, where .tif is a tiled TIFF whose levels
    follow as reduced pages (OpenSlide, GDAL and QuPath read it) and which carries the georeference
    where there is one. compression: none, deflate (default), zstd, lzw, jpeg (8 bit, 1 or 3 bands,
    with `quality` 1 to 100). PNG and JPEG are limited to `max_whole_bytes` of pixels. Pixel size,
    colour profile, band names, nodata, validity (alpha or masks) and georeference go along as far
    as the format has a place for them. `file` appears complete or not at all. progress: (done,
    total) tiles, for TIFF. Raises FormatError for what cannot be written so, and for an existing
    file without `overwrite`.
    """
    file = Path(file)
    image = PublishedImage.open(source)
    kind = _kind(file, format)
    compression = compression or "deflate"
    _check(file, image, kind, compression, quality, max_whole_bytes)
    with atomic_files.atomic_output(file, overwrite=overwrite) as temporary:
        if kind in _IN_MEMORY:
            encoded = _encoded(image, kind, quality)
            # Not flushed here: atomic_output does that.
            atomic_files.write_new(temporary, encoded, fsync=False)
            return _left_out(image, kind)
        tiff_writer.write_tiff(
            temporary,
            image,
            levels=len(image.levels) if pyramid or kind == "cog" else 1,
            ome=kind == "ome-tiff",
            cog=kind == "cog",
            compression=compression,
            quality=quality,
            tags=_tags(image, kind),
            progress=progress,
        )
    return _left_out(image, kind)


def _left_out(image: PublishedImage, kind: str) -> tuple[str, ...]:
    """Return what a format has no place for of an image."""
    if not image.metadata.mask or kind not in _WITHOUT_VALIDITY:
        return ()
    name = _WITHOUT_VALIDITY[kind]
    return (
        f"{name} has no place for which pixels are valid: where there is no data it shows what the "
        "input has there; a TIFF or PNG says it",
    )


def _encoded(
    image: PublishedImage,
    kind: str,
    quality: int,
) -> atomic_files.Buffers:
    """Return the whole file of a PNG or JPEG, in parts."""
    rows = png_jpeg.read_rows(image)
    icc = image.metadata.icc
    if kind == "png":
        validity = image.open_validity()
        if validity is not None:
            multiplied = image.metadata.mask == "associated"
            rows = png_jpeg.with_alpha(validity, rows, multiplied=multiplied)
        return png_jpeg.encode_png(rows, icc)
    return png_jpeg.encode_jpeg(rows, icc, quality)


def _tags(image: PublishedImage, kind: str) -> list[geotiff.Tag]:
    """Return the tags that GDAL reads; an OME-TIFF says in its XML what it says."""
    metadata = image.metadata
    if kind == "ome-tiff":
        metadata = ImageMetadata(nodata=metadata.nodata)
    return geotiff.tags(metadata, channels=image.channels, dtype=image.dtype)


def _kind(file: Path, format: str | None) -> str:
    """Return the format that is asked for, by name or by suffix."""
    name = file.name.lower()
    by_suffix = next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)
    if format is None:
        if by_suffix is None:
            ending = f"suffix {file.suffix!r}" if file.suffix else "no suffix"
            raise FormatError(
                f"{file}: {ending}; the formats that can be written are {', '.join(_SUFFIXES)}"
            )
        return by_suffix
    if format not in FORMATS:
        raise FormatError(f"format {format!r} is not known; choose one of {', '.join(FORMATS)}")
    if format in _IN_MEMORY and by_suffix != format:
        raise FormatError(
            f"{file}: the name does not end as a {format.upper()}; rename it, or leave --format out"
        )
    if format not in _IN_MEMORY and not name.endswith(_TIFF_SUFFIXES):
        raise FormatError(f"{file}: {format} is a TIFF; choose a name that ends in .tif")
    return format


def _check(
    file: Path,
    image: PublishedImage,
    kind: str,
    compression: str,
    quality: int,
    max_bytes: int,
) -> None:
    """Raise FormatError where the image does not go into the format."""
    if compression not in COMPRESSIONS:
        raise FormatError(
            f"compression {compression!r} is not known; choose one of {', '.join(COMPRESSIONS)}"
        )
    if not 1 <= quality <= 100:
        raise FormatError(
            f"quality {quality} is not between 1 and 100; choose {QUALITY}, for example"
        )
    _check_samples(file, image, kind, compression)
    if kind in _IN_MEMORY:
        _check_size(file, image, kind, max_bytes)
    if kind in ("geotiff", "cog"):
        if image.metadata.geo is None:
            raise FormatError(
                f"{file}: {image.path} has no georeference for a {kind}; export with --format tiff"
            )
        geotiff.require()
    _check_disk(file, image, kind, compression)


def _check_samples(
    file: Path,
    image: PublishedImage,
    kind: str,
    compression: str,
) -> None:
    """Raise FormatError where the format cannot hold the bands or their type."""
    held = f"{image.dtype} with {image.channels} bands"
    grey_or_colour = image.channels in (1, 3)
    as_jpeg = kind == "jpeg" or compression == "jpeg"
    if as_jpeg and not (image.dtype == "uint8" and grey_or_colour):
        raise FormatError(
            f"{file}: JPEG holds uint8 with 1 or 3 bands, the image is {held}; "
            "choose zstd or deflate"
        )
    if kind == "png" and not (image.dtype in ("uint8", "uint16") and grey_or_colour):
        raise FormatError(
            f"{file}: a PNG holds uint8 or uint16 with 1 or 3 bands, not {held}; "
            f"export to {_as_tiff(file)}"
        )


def _check_size(
    file: Path,
    image: PublishedImage,
    kind: str,
    max_bytes: int,
) -> None:
    """Raise FormatError for an image that is too large for a PNG or JPEG."""
    size = image.nbytes(1)
    if size > max_bytes:
        raise FormatError(
            f"{file}: {human_bytes(size)} of pixels, above the limit of {human_bytes(max_bytes)} "
            f"for a {kind.upper()}, which is made in memory; export to {_as_tiff(file)} instead"
        )
    longest_side = max(image.levels[0].shape[1:])
    if kind == "jpeg" and longest_side > png_jpeg.JPEG_SIDE:
        raise FormatError(
            f"{file}: a JPEG is at most {png_jpeg.JPEG_SIDE} px wide and high; "
            f"export to {_as_tiff(file)} instead"
        )


def _as_tiff(file: Path) -> str:
    return file.with_suffix(".tif").name


def _check_disk(
    file: Path,
    image: PublishedImage,
    kind: str,
    compression: str,
) -> None:
    """Raise FormatError when even the uncompressed parts of an export do not fit on the disk."""
    if kind in _IN_MEMORY or compression != "none" or not file.parent.is_dir():
        return
    needed = image.nbytes()
    free = shutil.disk_usage(file.parent).free
    if free < needed:
        raise FormatError(
            f"{file}: needs about {human_bytes(needed)} of disk, {human_bytes(free)} are free; "
            "free some or go elsewhere"
        )
