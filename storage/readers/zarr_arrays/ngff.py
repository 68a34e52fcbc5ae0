"""What the metadata of an OME-Zarr group says: versions 0.4 and 0.5, any axes; plates and
collections are named.

Source: OME-NGFF 0.4 and 0.5, sections multiscales, omero, bioformats2raw.layout and plate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import FormatError
from storage.units import micrometres

VERSIONS = ("0.4", "0.5")
_SUPPORTED = f"supported: images of OME-Zarr {' and '.join(VERSIONS)}, and plain arrays"


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiscale:
    """The first multiscale image of a group."""

    version: str
    axes: tuple[str, ...]
    """Axis names, slowest first; y and x are among them."""
    datasets: tuple[str, ...]
    """Paths of the levels inside the group, finest first."""
    pixel_size: tuple[float, float] | None
    """(y, x) in micrometres."""
    names: tuple[str, ...]
    """Channel labels; empty when there are none."""


def parse_group(path: str, attributes: Mapping[str, Any], members: list[str]) -> Multiscale:
    """Return the image of a group; members: names of what the group holds, for messages.

    Raises FormatError for plates, collections, other versions and incomplete metadata.
    """
    found = attributes.get("ome")
    ome: Mapping[str, Any] = found if isinstance(found, Mapping) else attributes
    listed = ", ".join(sorted(members)[:6]) + (", ..." if len(members) > 6 else "")
    if "plate" in ome or "well" in ome:
        raise FormatError(
            f"{path}: a plate or well (HCS), not one image; give one of its fields, {path}/ROW/COLUMN/0"
        )
    if "bioformats2raw.layout" in ome:
        raise FormatError(
            f"{path}: a collection of images ({listed}); give one of them, for example {path}/0"
        )
    scales = ome.get("multiscales")
    if not isinstance(scales, list) or not scales:
        raise FormatError(
            f"{path}: a zarr group without an OME-Zarr image (it holds {listed or 'nothing'}); {_SUPPORTED}"
        )
    try:
        return _multiscale(path, ome, scales[0], under_ome=ome is found)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{path}: the OME-Zarr multiscales metadata is incomplete; {_SUPPORTED}"
        ) from None


def _multiscale(
    path: str, ome: Mapping[str, Any], scale: Mapping[str, Any], *, under_ome: bool
) -> Multiscale:
    # Since 0.5 everything stands under one attribute, and its version with it.
    version = ome.get("version") if under_ome else scale.get("version")
    if version not in VERSIONS or (version == VERSIONS[0]) == under_ome:
        raise FormatError(f"{path}: OME-Zarr version {version!r}; {_SUPPORTED}")
    axes = tuple(str(axis["name"]) for axis in scale["axes"])
    if not axes:
        raise KeyError("axes")
    if len(set(axes)) != len(axes) or not {"y", "x"} <= set(axes) <= set("tczyx"):
        raise FormatError(
            f"{path}: OME-Zarr axes {', '.join(axes)}; {_SUPPORTED} of axes among t, c, z, y, x"
        )
    if not scale["datasets"]:
        raise KeyError("datasets")
    datasets = tuple(str(level["path"]) for level in scale["datasets"])
    for name in datasets:
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise FormatError(
                f"{path}: a level at {name!r}, outside of the image's own folder, is not followed"
            )
    units = {str(axis["name"]): str(axis.get("unit") or "") for axis in scale["axes"]}
    channels = (ome.get("omero") or {}).get("channels") or []
    labels = tuple(str(channel.get("label") or "") for channel in channels)
    return Multiscale(
        version=str(version),
        axes=axes,
        datasets=datasets,
        pixel_size=_pixel_size(path, axes, units, scale),
        names=labels if labels and all(labels) else (),
    )


def _pixel_size(
    path: str, axes: tuple[str, ...], units: Mapping[str, str], scale: Mapping[str, Any]
) -> tuple[float, float] | None:
    """Return the size at the finest level: its own scale times the one of all levels."""
    factors = [1.0] * len(axes)
    both = [
        *scale["datasets"][0]["coordinateTransformations"],
        *(scale.get("coordinateTransformations") or []),
    ]
    for transformation in both:
        if transformation.get("type") == "scale":
            values = [float(value) for value in transformation["scale"]]
            if len(values) != len(axes):
                raise FormatError(
                    f"{path}: a scale of {len(values)} numbers for {len(axes)} axes; {_SUPPORTED}"
                )
            factors = [factor * value for factor, value in zip(factors, values, strict=True)]
    sides = [micrometres(path, factors[axes.index(axis)], units[axis]) for axis in "yx"]
    return (sides[0], sides[1]) if sides[0] is not None and sides[1] is not None else None
