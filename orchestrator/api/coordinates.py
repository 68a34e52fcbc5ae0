"""The restoration of an xarray.DataArray as a DataArray: coordinates on the finer grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.api.array_input import GivenAxes
from orchestrator.job.spec import JobSpec


def data_array(pixels: Any, axes: str, given: GivenAxes | None, spec: JobSpec) -> Any:
    """Return a DataArray of `pixels`, whose axes are `axes`.

    Raises ImportError where xarray is not installed.
    """
    try:
        import xarray
    except ImportError:
        raise ImportError(
            "xarray is not installed; install it: pip install 'gigarestore[arrays]'"
        ) from None
    if given is None or not given.dims:
        return xarray.DataArray(pixels, dims=tuple(axes))
    names = dict(zip(given.axes, given.dims, strict=True))
    dims = tuple(names.get(axis, axis) for axis in axes)
    coordinates = {}
    for axis, dim, length in zip(axes, dims, pixels.shape, strict=True):
        known = given.coordinates.get(dim)
        values = None if known is None else _along(axis, known, length, spec)
        if values is not None:
            coordinates[dim] = (dim, values)
    return xarray.DataArray(
        pixels, coords=coordinates, dims=dims, name=given.name, attrs=dict(given.attributes)
    )


def _along(axis: str, known: Any, length: int, spec: JobSpec) -> NDArray[Any] | None:
    """Return the coordinates of the output along an axis; None where they cannot be said."""
    values = np.asarray(known)
    if axis == "c":
        chosen = values[list(spec.input.channel)] if spec.input.channel is not None else values
        return chosen if len(chosen) == length else None
    if values.dtype.kind not in "iuf":
        return None
    top, _, _, left = spec.input.pad or (0, 0, 0, 0)
    return finer(values.astype(np.float64), spec.task.scale, length, top if axis == "y" else left)


def finer(
    centres: NDArray[np.float64], scale: int, length: int, before: int
) -> NDArray[np.float64]:
    """Return the centres of `length` pixels, `scale` of them in each of `centres`.

    before: px of the output that lie before the input's first. Between centres, and by the first
    and last step beyond them, coordinates go linearly.

    >>> finer(np.array([0.0, 10.0]), 2, 4, 0)
    array([-2.5,  2.5,  7.5, 12.5])
    """
    place = (np.arange(length) - before + 0.5) / scale - 0.5
    if len(centres) == 1:
        return np.full(length, centres[0])
    left = np.clip(np.floor(place).astype(int), 0, len(centres) - 2)
    share = place - left
    between: NDArray[np.float64] = centres[left] * (1 - share) + centres[left + 1] * share
    return between
