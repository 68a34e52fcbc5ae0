"""Zarr of any origin by windows: OME-Zarr 0.4 and 0.5, plain arrays of format 2 and 3, local or
behind a URL.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The array that holds the image, and what its group says."""

    array: zarr.Array[Any]
    name: str
    axes: tuple[str, ...]
    scale: ngff.Multiscale | None
    levels: tuple[tuple[int, int], ...]


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
        found = _find(path, level, selection)
        self._array = found.array
        self._axes = found.axes
        self.info, self._bands, self._frame = _describe(redact(path), found, selection, max_pixels)

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the delivered dtype; see `Reader.read`."""
        check_inside(self.info, box)
        if "c" not in self._axes:
            return self._plane(box, None)[np.newaxis]
        return np.stack([self._plane(box, band) for band in self._bands])

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _plane(self, box: Box, band: int | None) -> Pixels:
        """Return one band of the frame, (h, w)."""
        rows, columns = box.slices()
        chosen = {"y": rows, "x": columns, "c": band, **self._frame}
        try:
            window = np.asarray(self._array[tuple(chosen[axis] for axis in self._axes)])
        except Exception as error:  # codecs and stores raise their own types, which all mean that it cannot be read
            raise DamagedError(
                f"{self.info.path}: {box} of {self._array.path or 'the array'} cannot be decoded: "
                f"{redact(one_line(error))}; get it again"
            ) from error
        turned = window if self._axes.index("y") < self._axes.index("x") else window.T
        return np.array(turned, self.info.dtype, order="C")


def inspect_any(
    path: str, selection: Selection = EVERYTHING, *, max_pixels: int = MAX_PIXELS
) -> ImageInfo:
    """Describe the image of a zarr group or array; raises FormatError for what is not one."""
    return AnyZarrReader(path, selection, max_pixels=max_pixels).info


def _find(path: str, level: int, selection: Selection) -> _Found:
    name = redact(path)
    node = _open(path)
    if isinstance(node, zarr.Array):
        return _Found(
            array=node, name=name, axes=_plain_axes(name, node, selection), scale=None, levels=()
        )
    scale = ngff.parse_group(name, dict(node.attrs), _members(node))
    if not 0 <= level < len(scale.datasets):
        raise FormatError(
            f"{name}: no level {level}; the pyramid has levels 0..{len(scale.datasets) - 1}"
        )
    arrays = []
    for dataset in scale.datasets:
        array = _member(name, node, dataset)
        if array.ndim != len(scale.axes):
            raise FormatError(
                f"{name}: level {dataset} has {array.ndim} axes, the metadata names {len(scale.axes)} "
                f"({', '.join(scale.axes)}); the image is damaged"
            )
        arrays.append(array)
    y = scale.axes.index("y")
    x = scale.axes.index("x")
    sizes = tuple((array.shape[y], array.shape[x]) for array in arrays)
    return _Found(
        array=arrays[level],
        name=name,
        axes=scale.axes,
        scale=scale,
        levels=sizes if len(sizes) > 1 else (),
    )


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
    except (
        Exception
    ) as error:  # metadata of any origin breaks zarr in any place; all of it means the same
        raise FormatError(f"{name}: not readable as zarr: {redact(one_line(error))}") from error


def _members(group: zarr.Group) -> list[str]:
    try:
        return list(group.keys())
    except Exception:  # listing may be impossible (plain HTTP); the names only serve messages
        return []


def _member(name: str, group: zarr.Group, dataset: str) -> zarr.Array[Any]:
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


def _plain_axes(name: str, array: zarr.Array[Any], selection: Selection) -> tuple[str, ...]:
    """Return the axes of an array without OME metadata: its dimension names, or two axes y, x;
    never a guess.
    """
    named = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if named is not None and all(isinstance(axis, str) for axis in named):
        axes = tuple(_KNOWN.get(axis.lower(), axis.lower()) for axis in named)
        if (
            len(axes) == array.ndim
            and {"y", "x"} <= set(axes) <= set("tczyx")
            and len(set(axes)) == len(axes)
        ):
            return axes
        raise FormatError(
            f"{name}: a zarr array of axes {', '.join(map(str, named))}; supported: t, c, z, y, x"
        )
    if array.ndim == 2:
        return "y", "x"
    given = [
        axis
        for axis, value in (("c", selection.channel), ("z", selection.z), ("t", selection.t))
        if value is not None
    ]
    if array.ndim == 3 and len(given) == 1:
        return given[0], "y", "x"
    raise FormatError(
        f"{name}: a zarr array {array.shape} of unnamed axes; say what the first of three axes is by choosing from it "
        "with --channel, --z or --t, or name the axes (dimension_names)"
    )


def _describe(
    path: str, found: _Found, selection: Selection, max_pixels: int
) -> tuple[ImageInfo, tuple[int, ...], dict[str, int]]:
    """Return (description, bands, index on every further axis)."""
    array = found.array
    axes = found.axes
    lengths = dict(zip(axes, map(int, array.shape), strict=True))
    if min(lengths.values()) < 1:
        raise FormatError(
            f"{path}: a zarr array of shape {array.shape}; an image needs at least one pixel"
        )
    check_size(path, lengths["y"], lengths["x"], max_pixels)
    stored = (
        str(np.dtype(array.dtype).newbyteorder("="))
        if array.dtype.kind in "biufc"
        else str(array.dtype)
    )
    if stored not in DELIVERED:
        raise FormatError(
            f"{path}: found {stored} samples; supported: {', '.join(DELIVERED)}; convert the array to one of them"
        )
    frame = choose_frames(
        path, selection, {axis: lengths[axis] for axis in ("z", "t") if axis in axes}
    )
    bands = choose_bands(path, selection.channel, lengths.get("c", 1), None)
    chunk = dict(zip(axes, map(int, array.chunks), strict=True))
    size = int(np.prod(array.chunks)) * array.dtype.itemsize
    if size > MAX_SEGMENT_BYTES:
        raise FormatError(
            f"{path}: chunks {tuple(array.chunks)} of {size} bytes, above the limit of {MAX_SEGMENT_BYTES} for one that "
            "is decoded whole; rewrite the array in smaller chunks"
        )
    planes = int(np.prod([length for axis, length in chunk.items() if axis not in "yx"]))
    lazy = max(chunk["y"], chunk["x"]) <= _LAZY_SIDE and planes <= _LAZY_PLANES
    layout = f"zarr {array.metadata.zarr_format} chunks {'x'.join(map(str, array.chunks))} ({', '.join(axes)})"
    names = (
        found.scale.names if found.scale and len(found.scale.names) == lengths.get("c", 1) else ()
    )
    dtype = DELIVERED[stored]
    notes = [f"absent chunks are read as the fill value {array.fill_value}, as Zarr defines"]
    if stored in WIDENED:
        notes.append(f"{stored} is widened to {dtype}, value by value")
    block = cut(lengths["y"], lengths["x"], len(bands) * ITEMSIZE[dtype], (chunk["y"], chunk["x"]))
    peak = 0.0 if array.dtype.kind != "u" else float(np.iinfo(array.dtype).max)
    info = ImageInfo(
        path=path,
        format="Zarr" if found.scale is None else "OME-Zarr",
        height=lengths["y"],
        width=lengths["x"],
        channels=len(bands),
        dtype=dtype,
        bits=8 * array.dtype.itemsize,
        lazy=lazy,
        why_staged="" if lazy else f"windows of {layout} are slow to read",
        layout=layout,
        grain=(chunk["y"], chunk["x"]),
        staging_bytes=0 if lazy else 2 * block.nbytes + _AT_ONCE * size,
        limits=(0.0, peak) if peak else None,
        names=tuple(names[band] for band in bands) if names else (),
        pixel_size=found.scale.pixel_size if found.scale else None,
        nodata=_nodata(array.attrs),
        levels=found.levels,
        axes=tuple((axis, lengths[axis]) for axis in frame if lengths[axis] > 1),
        notes=tuple(notes),
    )
    return info, bands, frame


def _nodata(attributes: Mapping[str, Any]) -> float | None:
    """Return the value that the CF conventions call missing, where an array names it."""
    value = attributes.get("_FillValue", attributes.get("missing_value"))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
