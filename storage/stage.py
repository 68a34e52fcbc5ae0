"""Stage an input that cannot be read by windows: copy its pixels once into a zarr array of (C, 512, 512) chunks."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage import chunks, files, zarr_meta
from storage.box import Box
from storage.errors import FormatError, human_bytes
from storage.image import ImageInfo, Reader
from storage.open import inspect, open_image
from storage.raster import MAX_WHOLE_BYTES
from storage.zarr_image import STAGED, inspect_zarr

CHUNK = 512
"""Side of a staged chunk, px."""


def stage(
    path: Path | str,
    dest: Path | str,
    *,
    max_bytes: int = MAX_WHOLE_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ImageInfo:
    """Copy the pixels of `path` to the new folder `dest` and return the description of the copy.

    TIFF strips and large tiles stream in bands of 512 rows; PNG and JPEG are decoded whole. Every chunk is stored, so
    a missing one is an error later. `dest` appears complete or not at all; what a kill left in `dest`.partial is
    started afresh. A `dest` made from the same file (name, size and time of change) is kept as it is.
    progress: (done, total) bands.
    Raises FormatError when the pixels in memory would exceed `max_bytes`, or `dest` was made from another file.
    """
    source, dest = str(path), Path(dest)
    identity = _identity(source)
    if dest.exists():
        return _reuse(dest, identity)
    info = inspect(source)
    if info.staging_bytes > max_bytes:
        raise FormatError(
            f"{source}: staging needs {human_bytes(info.staging_bytes)} of memory ({info.format}, {info.layout}), "
            f"above the limit of {human_bytes(max_bytes)}; convert it to a tiled TIFF: vips tiffsave in out.tif --tile"
        )
    partial = dest.with_name(dest.name + files.PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    reader = open_image(source, max_bytes=max_bytes)
    try:
        _copy(reader, partial, progress)
    finally:
        reader.close()
    files.write_new(partial / zarr_meta.ZARR_JSON, [zarr_meta.dump(_metadata(info, identity))], fsync=True)
    files.fsync_folder(partial)
    partial.rename(dest)
    files.fsync_folder(dest.parent)
    return inspect_zarr(str(dest))


def _copy(reader: Reader, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    """Write all chunks, one band of rows in memory."""
    info = reader.info
    bands = -(-info.height // CHUNK)
    for row in range(bands):
        band = reader.read(Box(row * CHUNK, 0, min((row + 1) * CHUNK, info.height), info.width))
        (folder / zarr_meta.object_key(row, 0)).parent.mkdir(parents=True)
        for col in range(-(-info.width // CHUNK)):
            data = chunks.encode(band[:, :, col * CHUNK : (col + 1) * CHUNK], CHUNK)
            files.write_new(folder / zarr_meta.object_key(row, col), [data], fsync=True)
        if progress:
            progress(row + 1, bands)


def _metadata(info: ImageInfo, identity: dict[str, Any]) -> dict[str, Any]:
    origin = {
        "source": identity,
        "format": info.format,
        "layout": info.layout,
        "pixel_size": info.pixel_size,
        "icc": base64.b64encode(info.icc).decode("ascii") if info.icc else None,
    }
    return zarr_meta.array_metadata(
        shape=info.shape,
        dtype=info.dtype,
        chunk=(info.channels, CHUNK, CHUNK),
        codecs=[zarr_meta.bytes_codec(info.dtype), zarr_meta.ZSTD],
        attributes={STAGED: origin},
    )


def _identity(source: str) -> dict[str, Any]:
    try:
        stat = os.stat(source)
    except FileNotFoundError:
        raise FormatError(f"{source}: no such file; check the path") from None
    return {"name": Path(source).name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _reuse(dest: Path, identity: dict[str, Any]) -> ImageInfo:
    info = inspect_zarr(str(dest))
    made_from = zarr_meta.load(dest)["attributes"][STAGED]["source"]
    if made_from != identity:
        changed = next(key for key in identity if made_from.get(key) != identity[key])
        raise FormatError(
            f"{dest}: was staged from a file with {changed} {made_from.get(changed)}, now {identity[changed]}; "
            "remove the folder to stage again"
        )
    return info
