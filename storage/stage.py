"""Stage an input that cannot be read by windows: copy its pixels once into a zarr array of (C, 512, 512) chunks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage import chunks, files, zarr_meta
from storage.box import Box
from storage.errors import FormatError, human_bytes
from storage.image import EVERYTHING, ImageInfo, Reader, Selection
from storage.limits import MAX_WHOLE_BYTES
from storage.open import inspect, open_image
from storage.source import Source, is_url
from storage.zarr_image import STAGED, inspect_zarr, staged_facts

CHUNK = 512
"""Side of a staged chunk, px."""


def stage(
    path: Path | str,
    dest: Path | str,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int | None = None,
    max_bytes: int = MAX_WHOLE_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ImageInfo:
    """Copy the chosen pixels of `path` to the new folder `dest` and return the description of the copy.

    TIFF strips, large tiles and PNG stream in bands of 512 rows; JPEG and JPEG 2000 are decoded whole. Every chunk is stored, so
    a missing one is an error later. `dest` appears complete or not at all; what a kill left in `dest`.partial is
    started afresh. A `dest` made from the same file (name, size and time of change) and choice is kept as it is.
    progress: (done, total) bands.
    Raises FormatError when the pixels in memory would exceed `max_bytes`, or `dest` was made from another file.
    """
    source, dest = str(path), Path(dest)
    identity = _identity(source, selection)
    if dest.exists():
        return _reuse(dest, identity)
    info = inspect(source, selection, max_pixels=max_pixels)
    if info.staging_bytes > max_bytes:
        raise FormatError(
            f"{info.path}: staging needs {human_bytes(info.staging_bytes)} of memory ({info.format}, {info.layout}), "
            f"above the limit of {human_bytes(max_bytes)}; convert it to a tiled TIFF: vips tiffsave in out.tif --tile"
        )
    partial = dest.with_name(dest.name + files.PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    reader = open_image(source, selection, max_pixels=max_pixels, max_bytes=max_bytes)
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
    return zarr_meta.array_metadata(
        shape=info.shape,
        dtype=info.dtype,
        chunk=(info.channels, CHUNK, CHUNK),
        codecs=[zarr_meta.bytes_codec(info.dtype), zarr_meta.ZSTD],
        attributes={STAGED: {"source": identity, **staged_facts(info)}},
    )


def _identity(source: str, selection: Selection) -> dict[str, Any]:
    """Return what makes the copy of a source the same again; of a URL its size stands for its content."""
    if is_url(source):
        with Source(source) as found:
            return {"name": found.name, "size": found.size, "mtime_ns": 0, **selection.as_dict()}
    try:
        stat = os.stat(source)
    except FileNotFoundError:
        raise FormatError(f"{source}: no such file; check the path") from None
    return {"name": Path(source).name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **selection.as_dict()}


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
