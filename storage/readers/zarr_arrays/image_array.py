"""Find the array that holds an image: the level of an OME-Zarr group, or an array by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore, ObjectStore

from storage.byte_source import is_url, redact, remote_store
from storage.errors import FormatError, one_line
from storage.image import Selection
from storage.image_metadata import VALIDITY, ImageMetadata
from storage.readers.zarr_arrays import ngff

# Names of axes that people use -> ours.
_AXIS_NAMES = {
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
class ImageArray:
    """The array that holds the image, and what its group says."""

    array: zarr.Array[Any]
    name: str
    axes: tuple[str, ...]
    multiscale: ngff.Multiscale | None
    levels: tuple[tuple[int, int], ...]
    published: ImageMetadata = field(default_factory=ImageMetadata)
    """What this program says of an image that it published; else nothing."""
    validity: zarr.Array[Any] | None = None
    """Array of the same shape, 0 where a sample is none."""

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


def find_image(
    path: str,
    level: int,
    selection: Selection,
) -> ImageArray:
    """Open a zarr folder or URL and return the array of a level; raises FormatError."""
    name = redact(path)
    node = _open(path)
    if isinstance(node, zarr.Array):
        return ImageArray(
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
    published = ImageMetadata.of(dict(node.attrs), None)
    validity = None
    if published.mask:
        validity = _member(name, node, f"{VALIDITY}/{multiscale.datasets[level]}")
        _check_same(name, validity, arrays[level])
    return ImageArray(
        array=arrays[level],
        name=name,
        axes=multiscale.axes,
        multiscale=multiscale,
        levels=sizes if len(sizes) > 1 else (),
        published=published,
        validity=validity,
    )


def _check_same(name: str, validity: zarr.Array[Any], array: zarr.Array[Any]) -> None:
    if validity.shape != array.shape:
        raise FormatError(
            f"{name}: {validity.path} has the shape {validity.shape}, its image {array.shape}; "
            "the image is damaged, get it again"
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
        axes = tuple(_AXIS_NAMES.get(axis.lower(), axis.lower()) for axis in named)
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
