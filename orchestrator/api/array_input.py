"""Arrays as inputs of a run: which axis is which, and their way into a zarr array that workers read
by windows.

An array-like is whatever has a shape, a dtype of numpy's and can be sliced (numpy, dask, xarray,
zarr, h5py, memmap), or becomes a numpy array (PIL, torch). Lazy ones stay lazy: blocks of BLOCK px
are copied one after the other.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PlanError
from storage import atomic_files
from storage.readers.common.sample_conversion import DELIVERED

# Side of a chunk of a staged array and of the blocks that are copied at a time, px: windows of
# tiles are then cheap, and a block of three bands of 16 bit takes 6 MB.
CHUNK = 512
BLOCK = 1024
# Colour axes of arrays whose axes nobody names are at most this long: grey, grey and alpha, RGB,
# RGBA.
MOST_COLOURS = 4
# Attribute of a staged array that keeps how its pixels were given.
GIVEN = "gigarestore_given"

_DIMENSIONS = {
    **dict.fromkeys(("y", "row", "rows", "lat", "latitude", "northing", "height"), "y"),
    **dict.fromkeys(("x", "col", "column", "columns", "lon", "longitude", "easting", "width"), "x"),
    **dict.fromkeys(("c", "band", "bands", "channel", "channels"), "c"),
}


class SupportsArray(Protocol):
    """An object that numpy can make an array of."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


ImageInput: TypeAlias = str | os.PathLike[str] | SupportsArray
"""A path, a URL, or an array of any kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAxes:
    """How an array was given, so that its restoration is returned alike."""

    axes: str
    """A permutation of y and x, or of y, x and c."""
    dims: tuple[str, ...] = ()
    """Names of the axes in an xarray.DataArray, in the same order; empty for other arrays."""
    coordinates: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Coordinates along single axes, by the axis's name."""
    name: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Of the DataArray, as far as JSON can say them."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "axes": self.axes,
            "dims": list(self.dims),
            "coordinates": {name: list(values) for name, values in self.coordinates.items()},
            "name": self.name,
            "attributes": dict(self.attributes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GivenAxes:
        """Return what `as_dict` described."""
        return cls(**{**values, "dims": tuple(values["dims"])})


@dataclass(frozen=True, slots=True)
class ArrayImage:
    """An array whose axes are known."""

    pixels: Any
    """Sliced along its own axes; any slice becomes a numpy array."""
    given: GivenAxes
    nodata: float | None = None
    """Value of pixels without data, where an xarray.DataArray says so."""

    @property
    def dtype(self) -> str:
        """Return the sample type that a run works with."""
        stored = np.dtype(self.pixels.dtype).newbyteorder("=")
        return DELIVERED[str(stored)]

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width), px."""
        shape = self.pixels.shape
        axes = self.given.axes
        return int(shape[axes.index("y")]), int(shape[axes.index("x")])

    @property
    def bands(self) -> int:
        """Return the number of bands."""
        axes = self.given.axes
        return int(self.pixels.shape[axes.index("c")]) if "c" in axes else 1

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Return a window as (C, h, w) in the dtype of the run."""
        chosen = {"y": rows, "x": columns, "c": slice(None)}
        axes = self.given.axes
        window = _computed(self.pixels[tuple(chosen[axis] for axis in axes)])
        _refuse_masked(window, "the image")
        window = np.asarray(window)
        if "c" not in axes:
            window = window[..., np.newaxis]
            axes += "c"
        turned = window.transpose([axes.index(axis) for axis in "cyx"])
        return np.ascontiguousarray(turned, dtype=self.dtype)

    def stage(self, folder: Path) -> None:
        """Copy all pixels to the new zarr array `folder`, (C, H, W); it appears whole or not at
        all.
        """
        import zarr

        height, width = self.size
        attributes: dict[str, Any] = {GIVEN: self.given.as_dict()}
        if self.nodata is not None and np.isfinite(self.nodata):
            attributes["_FillValue"] = self.nodata
        with atomic_files.atomic_folder(folder, fsync=False) as unfinished:
            staged = zarr.create_array(
                store=str(unfinished),
                shape=(self.bands, height, width),
                chunks=(1, min(CHUNK, height), min(CHUNK, width)),
                dtype=self.dtype,
                dimension_names=("c", "y", "x"),
                attributes=attributes,
            )
            starts = itertools.product(range(0, height, BLOCK), range(0, width, BLOCK))
            for y, x in starts:
                rows = slice(y, min(y + BLOCK, height))
                columns = slice(x, min(x + BLOCK, width))
                staged[:, rows, columns] = self.read(rows, columns)


def is_file_name(image: object) -> TypeGuard[str | os.PathLike[str]]:
    """Tell whether an input is a path or URL and no array."""
    return isinstance(image, str | os.PathLike)


def array_image(image: Any, axes: str | None, argument: str = "the image") -> ArrayImage:
    """Return an array with its axes: as said, as an xarray.DataArray or a zarr array names them,
    or as they must be.

    Raises PlanError for axes that do not fit, that could be either, and for dtypes that are not
    restored.
    """
    pixels = image if _sliceable(image) else np.asarray(image)
    _check_dtype(pixels, argument)
    _refuse_masked(image, argument)
    dims = tuple(str(dim) for dim in getattr(image, "dims", ()) or ())
    named = dims or tuple(_zarr_dimensions(image))
    axes = _checked(axes, pixels, argument) if axes else _axes(pixels, named, argument)
    if 0 in pixels.shape:
        raise PlanError(f"{argument} has shape {_plain(pixels.shape)}; it needs a pixel at least")
    if not dims:
        return ArrayImage(pixels, GivenAxes(axes=axes))
    given = GivenAxes(
        axes=axes,
        dims=dims,
        coordinates=_coordinates(image, dims),
        name=None if image.name is None else str(image.name),
        attributes=_json_only(image.attrs),
    )
    return ArrayImage(pixels, given, _nodata(image.attrs))


def _computed(window: Any) -> Any:
    """Return a window of a lazy array as it is computed, with what is masked of it: dask's own way
    to an array would drop that.
    """
    compute = getattr(window, "compute", None)
    computed = compute() if callable(compute) else window
    return getattr(computed, "data", computed) if hasattr(computed, "dims") else computed


def _refuse_masked(image: Any, argument: str) -> None:
    """Raise PlanError for numpy's masked samples, which would be taken for measured ones; windows
    of lazy arrays (netCDF variables, dask) hold such too.
    """
    masked = int(np.ma.getmaskarray(image).sum()) if isinstance(image, np.ma.MaskedArray) else 0
    if masked:
        raise PlanError(
            f"{argument} is a masked array, {masked} of its samples are masked; say it by a value: "
            "give an xarray.DataArray of filled(VALUE) with the attribute _FillValue, or NaN"
        )


def mask_image(mask: Any) -> ArrayImage:
    """Return a mask (H, W) as an image, whose values mean what those of a file do.

    Raises PlanError for other shapes, and for values that no file has.
    """
    _refuse_masked(mask, "mask=")
    values = np.asarray(mask)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values.squeeze(0 if values.shape[0] == 1 else -1)
    if values.ndim != 2:
        raise PlanError(f"mask= has shape {_plain(values.shape)}; give one of (height, width)")
    return ArrayImage(_storable_mask(values), GivenAxes(axes="yx"))


def _storable_mask(values: NDArray[Any]) -> NDArray[Any]:
    """Return a mask in a dtype that images have: yes and no as 1 and 0, whole numbers unsigned."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype.kind not in "biu" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise PlanError(f"mask= has dtype {values.dtype}; give bool, 0 and 1, or 0 to 255")
    return values.astype(np.uint8 if values.max(initial=0) <= 255 else np.uint16)


def read_given(folder: str | None) -> GivenAxes | None:
    """Return how the array was given that was staged at `folder`; None where it was none."""
    document = Path(folder or "") / "zarr.json"
    if folder is None or not document.is_file():
        return None
    known = json.loads(document.read_text(encoding="utf-8")).get("attributes", {}).get(GIVEN)
    return None if known is None else GivenAxes.from_dict(known)


def _sliceable(image: Any) -> bool:
    has_shape = isinstance(getattr(image, "shape", None), tuple)
    return has_shape and isinstance(getattr(image, "dtype", None), np.dtype)


def _check_dtype(pixels: Any, argument: str) -> None:
    stored = np.dtype(pixels.dtype)
    if str(stored.newbyteorder("=")) not in DELIVERED:
        known = ", ".join(DELIVERED)
        hint = "astype('float32') and value_range=(LOW, HIGH)" if stored.kind == "f" else "astype"
        raise PlanError(
            f"{argument} has dtype {stored}; supported: {known}; convert it first with {hint}"
        )


def _checked(axes: str, pixels: Any, argument: str) -> str:
    if sorted(axes) not in (["x", "y"], ["c", "x", "y"]):
        raise PlanError(f"axes={axes!r} are none; give y and x, and c for bands, for example 'yxc'")
    if len(axes) != len(pixels.shape):
        raise PlanError(
            f"axes={axes!r} name {len(axes)} axes and {argument} has {len(pixels.shape)}: shape "
            f"{_plain(pixels.shape)}"
        )
    return axes


def _axes(pixels: Any, names: Sequence[str], argument: str) -> str:
    """Return the axes that names say, or that the shape leaves no doubt of."""
    shape = _plain(pixels.shape)
    known = "".join(_DIMENSIONS.get(name.lower(), "?") for name in names)
    if sorted(known) in (["x", "y"], ["c", "x", "y"]):
        return known
    if names:
        raise PlanError(
            f"{argument} has the dimensions {', '.join(names)}; say which are which: axes='yxc'"
        )
    if len(shape) == 2:
        return "yx"
    if len(shape) != 3:
        raise PlanError(
            f"{argument} has shape {shape}; give two axes, y and x, or three with bands (c)"
        )
    first = shape[0] <= MOST_COLOURS
    last = shape[2] <= MOST_COLOURS
    if first == last:
        raise PlanError(
            f"{argument} has shape {shape}, which may be several orders of axes; say which: "
            "axes='yxc' or axes='cyx'"
        )
    return "cyx" if first else "yxc"


def _zarr_dimensions(image: Any) -> Sequence[str]:
    names = getattr(getattr(image, "metadata", None), "dimension_names", None) or ()
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def _coordinates(image: Any, dims: Sequence[str]) -> dict[str, list[Any]]:
    """Return the coordinates of single axes that are numbers or texts; others do not scale."""
    found = {}
    for dim in dims:
        if dim in image.coords and image.coords[dim].dims == (dim,):
            values = np.asarray(image.coords[dim].values)
            if values.dtype.kind in "iufUO":
                found[dim] = values.tolist()
    return _json_only(found)


def _json_only(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the entries that JSON can say."""
    found = {}
    for name, value in values.items():
        plain = value.item() if isinstance(value, np.generic) else value
        try:
            found[str(name)] = json.loads(json.dumps(plain))
        except (TypeError, ValueError):
            continue  # an object of somebody's own: it cannot be kept
    return found


def _nodata(attributes: Mapping[str, Any]) -> float | None:
    """Return the value of samples without data, as netCDF, zarr and xarray say it.

    What xarray keeps as the `encoding` counts no more: those samples have become NaN, and another
    that has the value now is a measured one.
    """
    value = attributes.get("_FillValue", attributes.get("missing_value"))
    if isinstance(value, np.ndarray | list | tuple) and len(value) == 1:
        value = value[0]
    return float(value) if isinstance(value, int | float | np.number) else None


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(length) for length in shape)
