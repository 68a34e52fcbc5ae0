"""Read the zarr arrays that this package writes: staged inputs, and the levels of a published image."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from storage import ome, zarr_meta
from storage.box import Box
from storage.errors import DamagedError, FormatError, one_line
from storage.image import ImageInfo, check_inside
from storage.pixels import dtype_name

if TYPE_CHECKING:
    from storage.image import Pixels

STAGED = "gigarestore_staged"
"""Attribute under which a staged array keeps what its source file said."""


def inspect_zarr(path: str, level: int = 0) -> ImageInfo:
    """Describe a staged array, or one level of a published image (0 is the finest).

    Raises FormatError for other zarr folders, and for a level that does not exist.
    """
    return _locate(path, level)[1]


def _locate(path: str, level: int) -> tuple[Path, ImageInfo]:
    """Return the folder of the array and its description."""
    folder = Path(path)
    document = zarr_meta.load(folder)
    if document.get("node_type") == "group":
        names, size, icc = ome.parse(path, document)
        if not 0 <= level < len(names):
            raise FormatError(f"{path}: no level {level}; the pyramid has levels 0..{len(names) - 1}")
        array = zarr_meta.load(folder / names[level])
        scaled = (size[0] * 2**level, size[1] * 2**level) if size else None
        return folder / names[level], _info(path, "OME-Zarr", array, icc=icc, pixel_size=scaled)
    staged = (document.get("attributes") or {}).get(STAGED)
    if staged is None:
        raise FormatError(f"{path}: a zarr array of unknown axes; give an image file or a published OME-Zarr image")
    icc = base64.b64decode(staged["icc"]) if staged.get("icc") else None
    size = tuple(staged["pixel_size"]) if staged.get("pixel_size") else None
    return folder, _info(path, "staged", document, icc=icc, pixel_size=size)


def _info(path: str, kind: Any, array: dict[str, Any], **known: Any) -> ImageInfo:
    try:
        channels, height, width = array["shape"]
        dtype = dtype_name(array["data_type"])
    except (KeyError, ValueError, TypeError) as error:
        raise FormatError(f"{path}: not a (C, H, W) array of uint8 or uint16 ({one_line(error)})") from None
    return ImageInfo(
        path=path,
        format=kind,
        height=height,
        width=width,
        channels=channels,
        dtype=dtype,
        bits=8 * np.dtype(dtype).itemsize,
        lazy=True,
        why_staged="",
        layout="zarr chunks",
        **known,
    )


class ZarrReader:
    """Read windows of a staged array or a published level; nothing is kept between reads."""

    def __init__(self, path: str, level: int = 0) -> None:
        folder, self.info = _locate(path, level)
        self._folder = folder
        self._array = zarr.open_array(store=str(folder), mode="r", zarr_format=3)

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the stored dtype; see `Reader.read`."""
        check_inside(self.info, box)
        self._require_objects(box)
        try:
            pixels = np.asarray(self._array[(slice(None), *box.slices())])
        except Exception as error:  # codecs raise their own types, which all mean that the data is damaged
            raise DamagedError(f"{self._folder}: {box} cannot be decoded: {one_line(error)}; write it again") from error
        self._require_objects(box)  # again: one that went away in between was read as zeros
        return pixels

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _require_objects(self, box: Box) -> None:
        """Refuse absent objects, which zarr would read as zeros without a word."""
        depth, height, width = self._array.shards or self._array.chunks
        for plane in range(-(-self.info.channels // depth)):
            for row in range(box.y0 // height, -(-box.y1 // height)):
                for col in range(box.x0 // width, -(-box.x1 // width)):
                    key = self._array.metadata.encode_chunk_key((plane, row, col))
                    if not (self._folder / key).is_file():
                        raise DamagedError(f"{self._folder / key}: missing from the array; write it again")
