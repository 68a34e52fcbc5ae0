"""OME-Zarr 0.5 metadata of a published image, and reading it back.

Source: OME-NGFF 0.5, sections multiscales and omero.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from storage import zarr_meta
from storage.errors import FormatError
from storage.pixels import PEAK

VERSION = "0.5"
_ICC = "icc_profile"
_CHANNELS = {
    1: [("Grey", "FFFFFF")],
    3: [("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF")],
}


def group_metadata(
    levels: Sequence[Mapping[str, Any]],
    *,
    name: str,
    pixel_size: tuple[float, float] | None,
    attributes: Mapping[str, Any],
    icc: bytes | None,
) -> dict[str, Any]:
    """Return the zarr.json of the image group. levels: the array documents, finest first.

    The arrays' metadata is repeated as consolidated metadata: a reader then needs one request, and does not list the
    folder, where a run keeps its private state.
    """
    ome = {"version": VERSION, "multiscales": [_multiscale(len(levels), name, pixel_size)], "omero": _omero(levels[0])}
    profile = {_ICC: base64.b64encode(icc).decode("ascii")} if icc else {}
    members = {str(number): dict(level) for number, level in enumerate(levels)}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**attributes, **profile, "ome": ome},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": members},
    }


def _multiscale(levels: int, name: str, pixel_size: tuple[float, float] | None) -> dict[str, Any]:
    unit = {"unit": "micrometer"} if pixel_size else {}
    space = [{"name": axis, "type": "space", **unit} for axis in zarr_meta.AXES[1:]]
    base = pixel_size or (1.0, 1.0)
    return {
        "name": name,
        "axes": [{"name": zarr_meta.AXES[0], "type": "channel"}, *space],
        "datasets": [{"path": str(n), "coordinateTransformations": _transformations(base, n)} for n in range(levels)],
        "type": "mean",
        "metadata": {"description": "2 x 2 means, halves rounded up; the last odd row or column is repeated"},
    }


def _transformations(base: tuple[float, float], level: int) -> list[dict[str, Any]]:
    """Place the centres of a level's pixels: 2^l times the size, shifted by (2^l - 1)/2 pixels of level 0."""
    scale = [1.0, *(side * 2**level for side in base)]
    shift = [0.0, *(side * (2**level - 1) / 2 for side in base)]
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]


def _omero(array: Mapping[str, Any]) -> dict[str, Any]:
    """Return display settings: every channel over the full range of the dtype."""
    count, peak = array["shape"][0], PEAK[array["data_type"]]
    named = _CHANNELS.get(count) or [(f"Channel {n}", "FFFFFF") for n in range(count)]
    window = {"min": 0, "max": peak, "start": 0, "end": peak}
    channels = [{"label": label, "color": colour, "window": window, "active": True} for label, colour in named]
    return {"channels": channels, "rdefs": {"model": "color" if count == 3 else "greyscale"}}


def parse(path: str, document: Mapping[str, Any]) -> tuple[list[str], tuple[float, float] | None, bytes | None]:
    """Return (array paths finest first, pixel size of level 0 in micrometres or None, ICC profile or None).

    Raises FormatError for a group that is not an OME-Zarr 0.5 image with axes c, y, x.
    """
    attributes = document.get("attributes") or {}
    ome = attributes.get("ome")
    supported = f"supported: an OME-Zarr {VERSION} image with axes c, y, x, as this program publishes it"
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
        raise FormatError(f"{path}: the OME-Zarr multiscales metadata is incomplete; {supported}") from None
    if axes != zarr_meta.AXES or not datasets or len(scale) != len(axes):
        raise FormatError(f"{path}: OME-Zarr axes {', '.join(map(str, axes))}; {supported}")
    size = (float(scale[1]), float(scale[2])) if units == {"micrometer"} else None
    return datasets, size, _decode_icc(attributes.get(_ICC))


def _decode_icc(text: object) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except binascii.Error:
        return None
