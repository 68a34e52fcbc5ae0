"""Published pixels as arrays in the axes that the input had, read when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import zarr

# Side of the dask chunks of a level, px: a few chunks of the published pyramid.
CHUNK = 1024
_STORED = "cyx"


class ArrayView:
    """One level of a published image; index it with whole numbers and slices, or np.asarray it.

    Shape, dtype and axes (a permutation of y, x or of y, x, c) are those of what it shows.
    """

    def __init__(self, folder: Path, axes: str, keep: object = None) -> None:
        """folder: of the zarr array (C, H, W). keep: lives as long as this view."""
        import zarr

        self._array: zarr.Array[Any] = zarr.open_array(store=str(folder), mode="r")
        self._keep = keep
        self.axes = axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the axes, px and bands."""
        return tuple(int(self._array.shape[_STORED.index(axis)]) for axis in self.axes)

    @property
    def ndim(self) -> int:
        """Return the number of axes."""
        return len(self.axes)

    @property
    def size(self) -> int:
        """Return the number of samples."""
        return int(np.prod(self.shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the sample type."""
        stored: np.dtype[Any] = np.dtype(self._array.dtype)
        return stored

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Return a window; raises IndexError for anything but whole numbers and forward slices."""
        chosen = dict(zip(self.axes, self._full(key), strict=True))
        kept = [axis for axis in _STORED if isinstance(chosen.get(axis, 0), slice)]
        window = np.asarray(self._array[tuple(chosen.get(axis, 0) for axis in _STORED)])
        wanted = [axis for axis in self.axes if axis in kept]
        return np.asarray(window.transpose([kept.index(axis) for axis in wanted]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("pixels on disk cannot become an array without a copy")
        pixels = self[...]
        return pixels if dtype is None else pixels.astype(dtype)

    def __repr__(self) -> str:
        return f"<ArrayView {self.axes} {self.shape} {self.dtype}>"

    def _full(self, key: Any) -> list[int | slice]:
        """Return one index for every axis."""
        parts = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in [part for part in parts if not isinstance(part, np.ndarray)]:
            gap = parts.index(Ellipsis)
            parts[gap : gap + 1] = [slice(None)] * (self.ndim - len(parts) + 1)
        parts += [slice(None)] * (self.ndim - len(parts))
        if len(parts) > self.ndim:
            raise IndexError(f"{len(parts)} indices for {self.ndim} axes {self.axes!r}")
        return [_plain(part) for part in parts]


def _plain(part: Any) -> int | slice:
    if isinstance(part, slice) and (part.step is None or part.step > 0):
        return part
    if isinstance(part, int | np.integer) and not isinstance(part, bool):
        return int(part)
    raise IndexError(
        f"{part!r} is no index here; use whole numbers and forward slices, or np.asarray first"
    )


def lazy_array(view: ArrayView) -> Any:
    """Return a dask array over a view where dask is installed, else the view itself."""
    try:
        import dask.array
    except ImportError:
        return view
    chunks = tuple(
        -1 if axis == "c" else min(CHUNK, length)
        for axis, length in zip(view.axes, view.shape, strict=True)
    )
    return dask.array.from_array(view, chunks=chunks, asarray=True, name=False)
