"""Zarr of any origin by windows: OME-Zarr 0.4 and 0.5, plain arrays of format 2 and 3.

Local, or behind a URL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import LocalStore, ObjectStore

from storage.box import Box
from storage.byte_source import is_url, redact, remote_store
from storage.errors import DamagedError, FormatError, one_line
from storage.image import (
    EVERYTHING,
    ITEMSIZE,
    ImageInfo,
    Selection,
    check_inside,
    check_size,
    choose_bands,
    choose_frames,
)
from storage.limits import MAX_PIXELS, MAX_SEGMENT_BYTES
from storage.readers.common.sample_conversion import DELIVERED, WIDENED
from storage.readers.common.staging_blocks import cut
from storage.readers.zarr_arrays import ngff

if TYPE_CHECKING:
    from storage.image import Pixels

# Chunks above this side, or with more planes than this besides the wanted one, are staged: a window
# would decode much that it does not need.
_LAZY_SIDE = 1024
_LAZY_PLANES = 16
# Chunks that a block of chunks of ours can touch, which zarr decodes at the same time.
_AT_ONCE = 4
_KNOWN = {
    "row": "y",
    "col": "x",
    "column": "x",
    "band": "c",
    "channel": "c",
    "time": "t",
    "lat": "y",
    "lon": "x",
}


@dataclass(
    frozen=True,
    slots=True,
    kw_only=True,
)
class _ImageArray:
    """The array that holds the image, and what its group says."""

    array: zarr.Array[Any]
    name: str
    axes: tuple[str, ...]
    multiscale: ngff.Multiscale | None
    levels: tuple[tuple[int, int], ...]

    @property
    def lengths(self) -> dict[str, int]:
        """Return the length of every axis."""
        return dict(zip(self.axes, map(int, self.array.shape), strict=True))

    @property
    def chunk(self) -> dict[str, int]:
        """Return the length of a chunk along every axis."""
        return dict(zip(self.axes, map(int, self.array.chunks), strict=True))

    @property
    def chunk_bytes(self) -> int:
        """Return the size of a decoded chunk."""
        samples = math.prod(self.array.chunks)
        return int(samples * self.array.dtype.itemsize)


class AnyZarrReader:
    """Read windows of the chosen frame and bands; nothing is kept between reads."""

    def __init__(
        self,
        path: str,
        selection: Selection = EVERYTHING,
        *,
        level: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        image = _find(path, level, selection)
        self._array = image.array
        self._axes = image.axes
        self.info, self._bands, self._frame = _describe(redact(path), image, selection, max_pixels)

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the delivered dtype; see `Reader.read`."""
        check_inside(self.info, box)
        if "c" not in self._axes:
            return self._plane(box, None)[np.newaxis]
        planes = [self._plane(box, band) for band in self._bands]
        return np.stack(planes)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _plane(self, box: Box, band: int | None) -> Pixels:
        """Return one band of the frame, (h, w)."""
        rows, columns = box.slices()
        chosen = {
            "y": rows,
            "x": columns,
            "c": band,
            **self._frame,
        }
        index = tuple(chosen[axis] for axis in self._axes)
        try:
            window = np.asarray(self._array[index])
        except Exception as error:  # of codecs and stores, which all mean: it cannot be read
            raise DamagedError(
                f"{self.info.path}: {box} of {self._array.path or 'the array'} cannot be decoded: "
                f"{redact(one_line(error))}; get it again"
            ) from error
        rows_first = self._axes.index("y") < self._axes.index("x")
        upright = window if rows_first else window.T
        return np.array(upright, self.info.dtype, order="C")


def inspect_any(
    path: str,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int = MAX_PIXELS,
) -> ImageInfo:
    """Describe the image of a zarr group or array; raises FormatError for what is not one."""
    return AnyZarrReader(path, selection, max_pixels=max_pixels).info


def _find(
    path: str,
    level: int,
    selection: Selection,
) -> _ImageArray:
    name = redact(path)
    node = _open(path)
    if isinstance(node, zarr.Array):
        return _ImageArray(
            array=node,
            name=name,
            axes=_plain_axes(name, node, selection),
            multiscale=None,
            levels=(),
        )

    multiscale = ngff.parse_group(name, dict(node.attrs), _members(node))
    coarsest = len(multiscale.datasets) - 1
    if not 0 <= level <= coarsest:
        raise FormatError(f"{name}: no level {level}; the pyramid has levels 0..{coarsest}")
    arrays = [_level(name, node, dataset, multiscale) for dataset in multiscale.datasets]
    y = multiscale.axes.index("y")
    x = multiscale.axes.index("x")
    sizes = tuple((array.shape[y], array.shape[x]) for array in arrays)
    return _ImageArray(
        array=arrays[level],
        name=name,
        axes=multiscale.axes,
        multiscale=multiscale,
        levels=sizes if len(sizes) > 1 else (),
    )


def _level(
    name: str,
    group: zarr.Group,
    dataset: str,
    multiscale: ngff.Multiscale,
) -> zarr.Array[Any]:
    """Return a level, held to the axes that the metadata names."""
    array = _member(name, group, dataset)
    axes = multiscale.axes
    if array.ndim != len(axes):
        raise FormatError(
            f"{name}: level {dataset} has {array.ndim} axes, the metadata names {len(axes)} "
            f"({', '.join(axes)}); the image is damaged"
        )
    return array


def _open(path: str) -> zarr.Array[Any] | zarr.Group:
    name = redact(path)
    if is_url(path):
        store: Any = ObjectStore(remote_store(path, name, parent=False)[0], read_only=True)
    else:
        store = LocalStore(Path(path), read_only=True)
    try:
        return zarr.open(store=store, mode="r")
    except FileNotFoundError:
        kind = "no zarr image" if is_url(path) else "a folder without zarr.json, .zarray or .zgroup"
        raise FormatError(f"{name}: {kind}; give an image file or a zarr image") from None
    except Exception as error:  # metadata of any origin breaks zarr in any place
        raise FormatError(f"{name}: not readable as zarr: {redact(one_line(error))}") from error


def _members(group: zarr.Group) -> list[str]:
    try:
        return list(group.keys())
    except Exception:  # listing may be impossible (plain HTTP); the names only serve messages
        return []


def _member(
    name: str,
    group: zarr.Group,
    dataset: str,
) -> zarr.Array[Any]:
    try:
        array = group[dataset]
    except KeyError:
        raise FormatError(
            f"{name}: its metadata names level {dataset!r}, which is missing; get it again"
        ) from None
    except Exception as error:  # as in _open
        raise FormatError(
            f"{name}: level {dataset!r} is not readable as zarr: {redact(one_line(error))}"
        ) from error
    if not isinstance(array, zarr.Array):
        raise FormatError(
            f"{name}: its metadata names level {dataset!r}, which is a group; the image is damaged"
        )
    return array


def _plain_axes(
    name: str,
    array: zarr.Array[Any],
    selection: Selection,
) -> tuple[str, ...]:
    """Return the axes of an array without OME metadata; never a guess.

    Its dimension names, or two axes y, x, or a third one that was chosen from.
    """
    named = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if named is not None and all(isinstance(axis, str) for axis in named):
        axes = tuple(_KNOWN.get(axis.lower(), axis.lower()) for axis in named)
        complete = len(axes) == array.ndim and len(set(axes)) == len(axes)
        if complete and {"y", "x"} <= set(axes) <= set("tczyx"):
            return axes
        listed = ", ".join(map(str, named))
        raise FormatError(f"{name}: a zarr array of axes {listed}; supported: t, c, z, y, x")

    if array.ndim == 2:
        return "y", "x"
    choices = {
        "c": selection.channel,
        "z": selection.z,
        "t": selection.t,
    }
    chosen = [axis for axis, choice in choices.items() if choice is not None]
    if array.ndim == 3 and len(chosen) == 1:
        return chosen[0], "y", "x"
    raise FormatError(
        f"{name}: a zarr array {array.shape} of unnamed axes; say what the first of three axes is "
        "by choosing from it with --channel, --z or --t, or name the axes (dimension_names)"
    )


def _describe(
    path: str,
    image: _ImageArray,
    selection: Selection,
    max_pixels: int,
) -> tuple[ImageInfo, tuple[int, ...], dict[str, int]]:
    """Return (description, bands, index on every further axis)."""
    lengths = image.lengths
    if min(lengths.values()) < 1:
        raise FormatError(
            f"{path}: a zarr array of shape {image.array.shape}; an image needs at least one pixel"
        )
    height = lengths["y"]
    width = lengths["x"]
    check_size(path, height, width, max_pixels)
    stored = _stored_dtype(path, image.array)
    further: dict[str, int] = {axis: lengths[axis] for axis in ("z", "t") if axis in image.axes}
    frame = choose_frames(path, selection, further)
    bands = choose_bands(path, selection.channel, lengths.get("c", 1), None)
    _check_chunk(path, image)

    dtype = DELIVERED[stored]
    lazy = _is_lazy(image.chunk)
    layout = _layout(image)
    grain = (image.chunk["y"], image.chunk["x"])
    block = cut(height, width, len(bands) * ITEMSIZE[dtype], grain)
    staging_bytes = 2 * block.nbytes + _AT_ONCE * image.chunk_bytes
    info = ImageInfo(
        path=path,
        format="Zarr" if image.multiscale is None else "OME-Zarr",
        height=height,
        width=width,
        channels=len(bands),
        dtype=dtype,
        bits=8 * image.array.dtype.itemsize,
        lazy=lazy,
        why_staged="" if lazy else f"windows of {layout} are slow to read",
        layout=layout,
        grain=grain,
        staging_bytes=0 if lazy else staging_bytes,
        limits=_limits(image.array),
        names=_names(image, bands),
        pixel_size=image.multiscale.pixel_size if image.multiscale else None,
        nodata=_nodata(image.array.attrs),
        levels=image.levels,
        axes=tuple((axis, lengths[axis]) for axis in frame if lengths[axis] > 1),
        notes=_notes(image.array, stored),
    )
    return info, bands, frame


def _stored_dtype(path: str, array: zarr.Array[Any]) -> str:
    """Return the name of the sample type; raises FormatError for one that is not delivered."""
    plain = array.dtype.kind in "biufc"
    stored = str(np.dtype(array.dtype).newbyteorder("=")) if plain else str(array.dtype)
    if stored not in DELIVERED:
        raise FormatError(
            f"{path}: found {stored} samples; supported: {', '.join(DELIVERED)}; "
            "convert the array to one of them"
        )
    return stored


def _check_chunk(path: str, image: _ImageArray) -> None:
    if image.chunk_bytes > MAX_SEGMENT_BYTES:
        raise FormatError(
            f"{path}: chunks {tuple(image.array.chunks)} of {image.chunk_bytes} bytes, above the "
            f"limit of {MAX_SEGMENT_BYTES} for one that is decoded whole; "
            "rewrite the array in smaller chunks"
        )


def _is_lazy(chunk: dict[str, int]) -> bool:
    """Tell whether a window decodes little that it does not need."""
    planes = math.prod(length for axis, length in chunk.items() if axis not in "yx")
    return max(chunk["y"], chunk["x"]) <= _LAZY_SIDE and planes <= _LAZY_PLANES


def _layout(image: _ImageArray) -> str:
    chunks = "x".join(map(str, image.array.chunks))
    zarr_format = image.array.metadata.zarr_format
    return f"zarr {zarr_format} chunks {chunks} ({', '.join(image.axes)})"


def _limits(array: zarr.Array[Any]) -> tuple[float, float] | None:
    if array.dtype.kind != "u":
        return None
    return 0.0, float(np.iinfo(array.dtype).max)


def _names(image: _ImageArray, bands: tuple[int, ...]) -> tuple[str, ...]:
    """Return the labels of the chosen bands, none where the metadata labels another number."""
    stored = image.lengths.get("c", 1)
    if image.multiscale is None or len(image.multiscale.names) != stored:
        return ()
    return tuple(image.multiscale.names[band] for band in bands)


def _notes(array: zarr.Array[Any], stored: str) -> tuple[str, ...]:
    absent = f"absent chunks are read as the fill value {array.fill_value}, as Zarr defines"
    if stored not in WIDENED:
        return (absent,)
    return absent, f"{stored} is widened to {WIDENED[stored]}, value by value"


def _nodata(attributes: Mapping[str, Any]) -> float | None:
    """Return the value that the CF conventions call missing, where an array names it."""
    value = attributes.get("_FillValue", attributes.get("missing_value"))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else None
