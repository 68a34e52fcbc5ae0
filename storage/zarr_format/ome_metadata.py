"""OME-Zarr 0.5 metadata of a published image, and reading it back.

Source: OME-NGFF 0.5, sections multiscales and omero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storage.errors import FormatError
from storage.image_metadata import ImageMetadata
from storage.zarr_format import zarr_json

VERSION = "0.5"
_SUPPORTED = (
    f"supported: an OME-Zarr {VERSION} image with axes c, y, x, as this program publishes it"
)
_RGB = ("FF0000", "00FF00", "0000FF")
_LABELS = {1: ("Grey",), 3: ("Red", "Green", "Blue")}
# Display range of a band, per dtype; the range of float32 is a matter of its values.
_RANGES: dict[str, tuple[float, float]] = {
    "uint8": (0, 255),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
}


_REDUCED = {
    "mean": "2 x 2 means, halves rounded up; the last odd row or column is repeated",
    "most": "the largest of 2 x 2 samples: 0 where none is valid, 255 wholly opaque",
}


def add_member(group: dict[str, Any], path: str, other: Mapping[str, Any]) -> None:
    """Enter another image's group in the consolidated metadata of the one it lies in."""
    members = group["consolidated_metadata"]["metadata"]
    alone = {key: value for key, value in other.items() if key != "consolidated_metadata"}
    members[path] = alone
    for name, document in other["consolidated_metadata"]["metadata"].items():
        members[f"{path}/{name}"] = document


def member(group: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the zarr.json of an image's group that `add_member` entered."""
    consolidated = group["consolidated_metadata"]
    members = consolidated["metadata"]
    inside = f"{path}/"
    arrays = {
        name.removeprefix(inside): document
        for name, document in members.items()
        if name.startswith(inside)
    }
    return {**members[path], "consolidated_metadata": {**consolidated, "metadata": arrays}}


def group_metadata(
    levels: Sequence[Mapping[str, Any]],
    *,
    name: str,
    metadata: ImageMetadata,
    attributes: Mapping[str, Any],
    window: tuple[float, float] | None = None,
    shown: Sequence[tuple[float, float]] | None = None,
    reduced: str = "mean",
) -> dict[str, Any]:
    """Return the zarr.json of the image group. levels: the array documents, finest first.

    reduced: how a coarser level is made, a name in `_REDUCED`.

    window: least and largest value; default the range of a whole dtype, 0 to 1 for float32. shown:
    values of each band that viewers show as black and white; default the window. The arrays'
    metadata is repeated as consolidated metadata: a reader then needs one request, and does not
    list the folder, where a run keeps its private state.
    """
    dtype = str(levels[0]["data_type"])
    ends = window or _RANGES.get(dtype, (0.0, 1.0))
    ome = {
        "version": VERSION,
        "multiscales": [_multiscale(len(levels), name, metadata, reduced)],
        "omero": _omero(levels[0], metadata.names, ends, shown),
    }
    members = {str(number): dict(level) for number, level in enumerate(levels)}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            **attributes,
            **metadata.attributes(),
            "ome": ome,
        },
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": members,
        },
    }


def _multiscale(
    levels: int,
    name: str,
    metadata: ImageMetadata,
    reduced: str,
) -> dict[str, Any]:
    unit = {"unit": "micrometer"} if metadata.pixel_size else {}
    channel, y, x = zarr_json.AXES
    axes = [
        {"name": channel, "type": "channel"},
        {
            "name": y,
            "type": "space",
            **unit,
        },
        {
            "name": x,
            "type": "space",
            **unit,
        },
    ]
    datasets = [
        {
            "path": str(number),
            "coordinateTransformations": _transformations(metadata, number),
        }
        for number in range(levels)
    ]
    return {
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": reduced,
        "metadata": {"description": _REDUCED[reduced]},
    }


def _transformations(metadata: ImageMetadata, level: int) -> list[dict[str, Any]]:
    """Place the centres of a level's pixels, counted from the centre of the source's first pixel.

    A level is 2^l times coarser than level 0 and its first centre lies (2^l - 1)/2 pixels of level
    0 further in.
    """
    size_y, size_x = metadata.pixel_size or (1.0, 1.0)
    first_y, first_x = metadata.origin
    coarser = 2**level
    further = (coarser - 1) / 2
    scale = [1.0, size_y * coarser, size_x * coarser]
    translation = [
        0.0,
        size_y * (first_y + further),
        size_x * (first_x + further),
    ]
    return [
        {"type": "scale", "scale": scale},
        {"type": "translation", "translation": translation},
    ]


def _omero(
    array: Mapping[str, Any],
    names: Sequence[str],
    window: tuple[float, float],
    shown: Sequence[tuple[float, float]] | None,
) -> dict[str, Any]:
    """Return display settings. Of many bands the first three are shown, as red, green and blue."""
    count = array["shape"][0]
    numbered = [f"Channel {number}" for number in range(count)]
    labels = names if len(names) == count else _LABELS.get(count) or numbered
    white = "FFFFFF"
    colours = [white] if count == 1 else [*_RGB, *[white] * count][:count]
    least = min(window[0], *(low for low, _ in shown or (window,)))
    most = max(window[1], *(high for _, high in shown or (window,)))

    channels = []
    each = zip(labels, colours, shown or [window] * count, strict=True)
    for number, (label, colour, (low, high)) in enumerate(each):
        active = number < len(_RGB)
        channels.append(
            {
                "label": label,
                "color": colour,
                "window": {"min": least, "max": most, "start": low, "end": high},
                "active": active,
            }
        )
    model = "color" if count > 1 else "greyscale"
    return {"channels": channels, "rdefs": {"model": model}}


def parse(
    path: str, document: Mapping[str, Any]
) -> tuple[list[str], tuple[float, float] | None, bytes | None]:
    """Return (array paths finest first, pixel size of level 0 or None, ICC profile or None).

    The pixel size is in micrometres, (y, x). Raises FormatError as `describe` does.
    """
    datasets, metadata = describe(path, document)
    return datasets, metadata.pixel_size, metadata.icc


def describe(path: str, document: Mapping[str, Any]) -> tuple[list[str], ImageMetadata]:
    """Return (array paths finest first, metadata of level 0) of an image group.

    Raises FormatError for a group that is not an OME-Zarr 0.5 image with axes c, y, x.
    """
    attributes = document.get("attributes") or {}
    ome = attributes.get("ome")
    if not isinstance(ome, Mapping) or not ome.get("multiscales"):
        raise FormatError(f"{path}: a zarr group without an OME-Zarr image; {_SUPPORTED}")
    if ome.get("version") != VERSION:
        raise FormatError(f"{path}: OME-Zarr version {ome.get('version')!r}; {_SUPPORTED}")

    try:
        multiscale = ome["multiscales"][0]
        axes = tuple(axis["name"] for axis in multiscale["axes"])
        units = {axis.get("unit") for axis in multiscale["axes"][1:]}
        datasets = [str(level["path"]) for level in multiscale["datasets"]]
        finest = multiscale["datasets"][0]
        scale = finest["coordinateTransformations"][0]["scale"]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise FormatError(
            f"{path}: the OME-Zarr multiscales metadata is incomplete; {_SUPPORTED}"
        ) from None

    if axes != zarr_json.AXES or not datasets or len(scale) != len(axes):
        named = ", ".join(map(str, axes))
        raise FormatError(f"{path}: OME-Zarr axes {named}; {_SUPPORTED}")
    in_micrometres = units == {"micrometer"}
    pixel_size = (float(scale[1]), float(scale[2])) if in_micrometres else None
    return datasets, ImageMetadata.of(attributes, pixel_size)
