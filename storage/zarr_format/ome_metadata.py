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
_RGB = ("FF0000", "00FF00", "0000FF")
_LABELS = {1: ("Grey",), 3: ("Red", "Green", "Blue")}
# Display range of a band, per dtype; the range of float32 is a matter of its values.
_RANGES: dict[str, tuple[float, float]] = {
    "uint8": (0, 255),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
}


def group_metadata(
    levels: Sequence[Mapping[str, Any]],
    *,
    name: str,
    metadata: ImageMetadata,
    attributes: Mapping[str, Any],
    window: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return the zarr.json of the image group. levels: the array documents, finest first.

    window: values shown as black and white; default the range of a whole dtype, 0 to 1 for float32.
    The arrays' metadata is repeated as consolidated metadata: a reader then needs one request, and
    does not list the folder, where a run keeps its private state.
    """
    omero = _omero(
        levels[0], metadata.names, window or _RANGES.get(str(levels[0]["data_type"]), (0.0, 1.0))
    )
    ome = {
        "version": VERSION,
        "multiscales": [_multiscale(len(levels), name, metadata)],
        "omero": omero,
    }
    members = {str(number): dict(level) for number, level in enumerate(levels)}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**attributes, **metadata.attributes(), "ome": ome},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": members},
    }


def _multiscale(levels: int, name: str, metadata: ImageMetadata) -> dict[str, Any]:
    unit = {"unit": "micrometer"} if metadata.pixel_size else {}
    space = [{"name": axis, "type": "space", **unit} for axis in zarr_json.AXES[1:]]
    return {
        "name": name,
        "axes": [{"name": zarr_json.AXES[0], "type": "channel"}, *space],
        "datasets": [
            {"path": str(n), "coordinateTransformations": _transformations(metadata, n)}
            for n in range(levels)
        ],
        "type": "mean",
        "metadata": {
            "description": "2 x 2 means, halves rounded up; the last odd row or column is repeated"
        },
    }


def _transformations(metadata: ImageMetadata, level: int) -> list[dict[str, Any]]:
    """Place the centres of a level's pixels, counted from the centre of the source's first pixel.

    A level is 2^l times coarser than level 0 and its first centre lies (2^l - 1)/2 pixels of level
    0 further in.
    """
    base = metadata.pixel_size or (1.0, 1.0)
    further = (2**level - 1) / 2
    scale = [1.0, *(side * 2**level for side in base)]
    shift = [
        0.0,
        *(side * (first + further) for side, first in zip(base, metadata.origin, strict=True)),
    ]
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]


def _omero(
    array: Mapping[str, Any], names: Sequence[str], window: tuple[float, float]
) -> dict[str, Any]:
    """Return display settings. Of many bands the first three are shown, as red, green and blue."""
    count = array["shape"][0]
    labels = (
        names
        if len(names) == count
        else _LABELS.get(count) or [f"Channel {n}" for n in range(count)]
    )
    colours = ["FFFFFF"] if count == 1 else [*_RGB, *["FFFFFF"] * count][:count]
    low, high = window
    shown = {"min": low, "max": high, "start": low, "end": high}
    channels = [
        {"label": label, "color": colour, "window": shown, "active": number < len(_RGB)}
        for number, (label, colour) in enumerate(zip(labels, colours, strict=True))
    ]
    return {"channels": channels, "rdefs": {"model": "color" if count > 1 else "greyscale"}}


def parse(
    path: str, document: Mapping[str, Any]
) -> tuple[list[str], tuple[float, float] | None, bytes | None]:
    """Return (array paths finest first, pixel size of level 0 in micrometres or None, ICC profile
    or None).

    Raises FormatError as `describe` does.
    """
    datasets, metadata = describe(path, document)
    return datasets, metadata.pixel_size, metadata.icc


def describe(path: str, document: Mapping[str, Any]) -> tuple[list[str], ImageMetadata]:
    """Return (array paths finest first, metadata of level 0) of an image group.

    Raises FormatError for a group that is not an OME-Zarr 0.5 image with axes c, y, x.
    """
    attributes = document.get("attributes") or {}
    ome = attributes.get("ome")
    supported = (
        f"supported: an OME-Zarr {VERSION} image with axes c, y, x, as this program publishes it"
    )
    if not isinstance(ome, Mapping) or not ome.get("multiscales"):
        raise FormatError(f"{path}: a zarr group without an OME-Zarr image; {supported}")
    if ome.get("version") != VERSION:
        raise FormatError(f"{path}: OME-Zarr version {ome.get('version')!r}; {supported}")
    try:
        scales = ome["multiscales"][0]
        axes = tuple(axis["name"] for axis in scales["axes"])
        units = {axis.get("unit") for axis in scales["axes"][1:]}
        datasets = [str(level["path"]) for level in scales["datasets"]]
        scale = scales["datasets"][0]["coordinateTransformations"][0]["scale"]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise FormatError(
            f"{path}: the OME-Zarr multiscales metadata is incomplete; {supported}"
        ) from None
    if axes != zarr_json.AXES or not datasets or len(scale) != len(axes):
        raise FormatError(f"{path}: OME-Zarr axes {', '.join(map(str, axes))}; {supported}")
    size = (float(scale[1]), float(scale[2])) if units == {"micrometer"} else None
    return datasets, ImageMetadata.of(attributes, size)
