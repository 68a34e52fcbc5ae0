"""What the metadata of an OME-Zarr group says: versions 0.4 and 0.5, any axes.

Plates and collections are refused by name. Source: OME-NGFF 0.4 and 0.5, sections multiscales,
omero, bioformats2raw.layout and plate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import FormatError
from storage.units import micrometres

VERSIONS = ("0.4", "0.5")
# How many members a message lists.
_NAMED = 6
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
    windows: tuple[tuple[float, float], ...] = ()
    """Values that are shown as black and white, of each channel; empty when one has none."""


def parse_group(
    path: str,
    attributes: Mapping[str, Any],
    members: list[str],
) -> Multiscale:
    """Return the image of a group; members: names of what the group holds, for messages.

    Raises FormatError for plates, collections, other versions and incomplete metadata.
    """
    under_ome = isinstance(attributes.get("ome"), Mapping)
    ome: Mapping[str, Any] = attributes["ome"] if under_ome else attributes
    listed = ", ".join(sorted(members)[:_NAMED])
    if len(members) > _NAMED:
        listed += ", ..."
    if "plate" in ome or "well" in ome:
        raise FormatError(
            f"{path}: a plate or well (HCS), not one image; "
            f"give one of its fields, {path}/ROW/COLUMN/0"
        )
    if "bioformats2raw.layout" in ome:
        raise FormatError(
            f"{path}: a collection of images ({listed}); give one of them, for example {path}/0"
        )
    multiscales = ome.get("multiscales")
    if not isinstance(multiscales, list) or not multiscales:
        raise FormatError(
            f"{path}: a zarr group without an OME-Zarr image (it holds {listed or 'nothing'}); "
            f"{_SUPPORTED}"
        )
    try:
        return _multiscale(path, ome, multiscales[0], under_ome=under_ome)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{path}: the OME-Zarr multiscales metadata is incomplete; {_SUPPORTED}"
        ) from None


def _multiscale(
    path: str,
    ome: Mapping[str, Any],
    multiscale: Mapping[str, Any],
    *,
    under_ome: bool,
) -> Multiscale:
    # Since 0.5 everything stands under one attribute, and its version with it.
    version = ome.get("version") if under_ome else multiscale.get("version")
    oldest = version == VERSIONS[0]
    if version not in VERSIONS or oldest == under_ome:
        raise FormatError(f"{path}: OME-Zarr version {version!r}; {_SUPPORTED}")
    axes = tuple(str(axis["name"]) for axis in multiscale["axes"])
    if not axes:
        raise KeyError("axes")
    repeated = len(set(axes)) != len(axes)
    if repeated or not {"y", "x"} <= set(axes) <= set("tczyx"):
        raise FormatError(
            f"{path}: OME-Zarr axes {', '.join(axes)}; {_SUPPORTED} of axes among t, c, z, y, x"
        )
    return Multiscale(
        version=str(version),
        axes=axes,
        datasets=_datasets(path, multiscale),
        pixel_size=_pixel_size(path, axes, multiscale),
        names=_labels(ome),
        windows=_windows(ome),
    )


def _datasets(path: str, multiscale: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths of the levels; none may lead out of the image's folder."""
    if not multiscale["datasets"]:
        raise KeyError("datasets")
    datasets = tuple(str(level["path"]) for level in multiscale["datasets"])
    for name in datasets:
        leads_out = name.startswith("/") or ".." in name.split("/")
        if not name or leads_out:
            raise FormatError(
                f"{path}: a level at {name!r}, outside of the image's own folder, is not followed"
            )
    return datasets


def _labels(ome: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the channels' labels, none where one of them is missing."""
    channels = (ome.get("omero") or {}).get("channels") or []
    labels = tuple(str(channel.get("label") or "") for channel in channels)
    return labels if all(labels) else ()


def _windows(ome: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """Return the channels' display windows, none where one of them is missing or is no window."""
    channels = (ome.get("omero") or {}).get("channels") or []
    windows = []
    for channel in channels:
        window = channel.get("window") or {}
        low, high = (window.get(end) for end in ("start", "end"))
        if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
            return ()
        windows.append((float(low), float(high)))
    return tuple(windows)


def _pixel_size(
    path: str,
    axes: tuple[str, ...],
    multiscale: Mapping[str, Any],
) -> tuple[float, float] | None:
    """Return the size at the finest level: its own scale times the one of all levels."""
    finest = multiscale["datasets"][0]["coordinateTransformations"]
    of_all_levels = multiscale.get("coordinateTransformations") or []
    factors = [1.0] * len(axes)
    for transformation in (*finest, *of_all_levels):
        if transformation.get("type") != "scale":
            continue
        scale = [float(value) for value in transformation["scale"]]
        if len(scale) != len(axes):
            raise FormatError(
                f"{path}: a scale of {len(scale)} numbers for {len(axes)} axes; {_SUPPORTED}"
            )
        factors = [factor * value for factor, value in zip(factors, scale, strict=True)]

    units = {str(axis["name"]): str(axis.get("unit") or "") for axis in multiscale["axes"]}
    size_y = micrometres(path, factors[axes.index("y")], units["y"])
    size_x = micrometres(path, factors[axes.index("x")], units["x"])
    return None if size_y is None or size_x is None else (size_y, size_x)
