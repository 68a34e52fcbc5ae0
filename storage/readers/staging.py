"""Stage an input that cannot be read by windows: copy its pixels once into a zarr array."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage import atomic_files
from storage.box import Box
from storage.byte_source import ByteSource, is_url
from storage.errors import FormatError
from storage.image import EVERYTHING, ITEMSIZE, ImageInfo, Reader, Selection, check_memory
from storage.image_metadata import VALIDITY
from storage.readers.common.exif import swaps_sides
from storage.readers.common.staging_blocks import Blocks, cut
from storage.readers.reader_registry import inspect, open_image
from storage.readers.zarr_arrays.own_zarr import STAGED, inspect_zarr, staged_facts
from storage.validity import marked
from storage.zarr_format import zarr_json
from storage.zarr_format.chunk import encode_chunk

if TYPE_CHECKING:
    from storage.image import Pixels

Progress = Callable[[int, int], None]
"""Told of (done, total) blocks."""


def stage(
    path: Path | str,
    dest: Path | str,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> ImageInfo:
    """Copy the chosen pixels of `path` to the new folder `dest`; return the copy's description.

    The pixels go through memory in blocks (`storage.readers.common.staging_blocks`), whatever the
    image's size; JPEG, JPEG 2000 and interlaced PNG are decoded whole where they are small. Every
    chunk is stored, so a missing one is an error later. `dest` appears complete or not at all; what
    a kill left in `dest`.partial is started afresh. A `dest` made from the same file (name, size
    and time of change) and choice is kept as it is. max_bytes: of memory for pixels; default
    `storage.limits.MAX_WHOLE_BYTES`, and no limit with `max_pixels`. Raises FormatError when that
    would be exceeded, or `dest` was made from another file.
    """
    source = str(path)
    dest = Path(dest)
    identity = _identity(source, selection)
    if dest.exists():
        return _reuse(dest, identity)
    info = inspect(source, selection, max_pixels=max_pixels)
    check_memory(info, max_pixels, max_bytes)
    blocks = _blocks(info)
    with atomic_files.atomic_folder(dest, fsync=True) as folder:
        reader = open_image(source, selection, max_pixels=max_pixels)
        try:
            _copy(reader, blocks, folder, progress)
        finally:
            reader.close()
        if info.mask:
            document = zarr_json.dump(_array(info.shape, "uint8", blocks, {}))
            atomic_files.write_new(folder / VALIDITY / zarr_json.ZARR_JSON, [document], fsync=True)
        document = zarr_json.dump(_metadata(info, blocks, identity))
        atomic_files.write_new(folder / zarr_json.ZARR_JSON, [document], fsync=True)
    return inspect_zarr(str(dest))


def _blocks(info: ImageInfo) -> Blocks:
    pixel_bytes = info.channels * ITEMSIZE[info.dtype]
    turned = swaps_sides(info.orientation)
    return cut(info.height, info.width, pixel_bytes, info.grain, turned=turned)


def _copy(
    reader: Reader,
    blocks: Blocks,
    folder: Path,
    progress: Progress | None,
) -> None:
    """Write all chunks, one block of them in memory."""
    height = reader.info.height
    width = reader.info.width
    tall, wide = blocks.block
    down = -(-height // tall)
    across = -(-width // wide)
    done = 0
    for row in range(down):
        for col in range(across):
            y0 = row * tall
            x0 = col * wide
            box = Box(y0, x0, y0 + tall, x0 + wide).clip(height, width)
            pixels, valid = reader.read_valid(box)
            _write(folder, box, pixels, blocks.chunk)
            if reader.info.mask:
                opacity = reader.opacity(box)
                marks = marked(valid, pixels.shape)
                if opacity is not None:
                    marks = np.minimum(marks, opacity)
                _write(folder / VALIDITY, box, marks, blocks.chunk)
            done += 1
            if progress:
                progress(done, down * across)


def _write(
    folder: Path,
    box: Box,
    pixels: Pixels,
    chunk: tuple[int, int],
) -> None:
    """Write the chunks of a block."""
    tall, wide = chunk
    for y in range(0, box.height, tall):
        for x in range(0, box.width, wide):
            key = zarr_json.object_key((box.y0 + y) // tall, (box.x0 + x) // wide)
            file = folder / key
            file.parent.mkdir(parents=True, exist_ok=True)
            part = pixels[:, y : y + tall, x : x + wide]
            data = encode_chunk(part, chunk, fast=True)
            atomic_files.write_new(file, [data], fsync=True)


def _metadata(
    info: ImageInfo,
    blocks: Blocks,
    identity: dict[str, Any],
) -> dict[str, Any]:
    attributes = {STAGED: {"source": identity, **staged_facts(info)}}
    return _array(info.shape, info.dtype, blocks, attributes)


def _array(
    shape: tuple[int, int, int], dtype: str, blocks: Blocks, attributes: dict[str, Any]
) -> dict[str, Any]:
    """Return the metadata of a staged array."""
    codecs = [
        zarr_json.bytes_codec(dtype),
        zarr_json.zstd_codec(zarr_json.FAST_LEVEL),
    ]
    return zarr_json.array_metadata(
        shape=shape,
        dtype=dtype,
        chunk=(shape[0], *blocks.chunk),
        codecs=codecs,
        attributes=attributes,
    )


def _identity(source: str, selection: Selection) -> dict[str, Any]:
    """Return what makes the copy of a source the same again.

    Of a URL its size stands for its content.
    """
    if is_url(source):
        with ByteSource(source) as remote:
            name = remote.name
            size = remote.size
        mtime_ns = 0
    else:
        try:
            stat = os.stat(source)
        except FileNotFoundError:
            raise FormatError(f"{source}: no such file; check the path") from None
        name = Path(source).name
        size = stat.st_size
        mtime_ns = stat.st_mtime_ns
    return {
        "name": name,
        "size": size,
        "mtime_ns": mtime_ns,
        **selection.as_dict(),
    }


def _reuse(dest: Path, identity: dict[str, Any]) -> ImageInfo:
    """Return the description of a copy that is there; raises FormatError for another source's."""
    info = inspect_zarr(str(dest))
    made_from = zarr_json.load(dest)["attributes"][STAGED]["source"]
    if made_from != identity:
        changed = next(key for key in identity if made_from.get(key) != identity[key])
        raise FormatError(
            f"{dest}: was staged from a file with {changed} {made_from.get(changed)}, "
            f"now {identity[changed]}; remove the folder to stage again"
        )
    return info
