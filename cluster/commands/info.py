"""gigarestore info: what was understood of an image file, before anything is restored."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.options import takes
from cluster.options.parsers import parse_channels
from cluster.terminal.progress import size

if TYPE_CHECKING:
    from storage.image import ImageInfo


@takes("channel", "z", "t", "max_pixels")
def info(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="An image file, a zarr folder, or a URL of one.")
    ],
    *,
    as_json: opt.AsJson = False,
    **given: Any,
) -> None:
    """Say what FILE holds: size, bands, samples, range, nodata, pixel size, map position, and what
    will be staged.
    """
    from storage.image import Selection
    from storage.readers.reader_registry import inspect

    channel = None if given["channel"] is None else parse_channels(given["channel"])
    found = inspect(
        file, Selection(channel=channel, z=given["z"], t=given["t"]), max_pixels=given["max_pixels"]
    )
    print(json.dumps(as_dict(found)) if as_json else "\n".join(_lines(found)))


def as_dict(found: ImageInfo) -> dict[str, Any]:
    """Return a description as JSON values; the colour profile only as its length."""
    nodata = found.nodata
    return {
        "path": found.path,
        "format": found.format,
        "height": found.height,
        "width": found.width,
        "bands": found.channels,
        "names": list(found.names),
        "dtype": found.dtype,
        "bits": found.bits,
        "range": None if found.limits is None else list(found.limits),
        "nodata": nodata if nodata is None or math.isfinite(nodata) else str(nodata),
        "alpha": found.alpha or None,
        "icc_bytes": len(found.icc) if found.icc else None,
        "orientation": found.orientation,
        "pixel_size_um": None if found.pixel_size is None else list(found.pixel_size),
        "geo": None if found.geo is None else found.geo.as_dict(),
        "bounds": None if found.geo is None else list(found.geo.bounds(found.height, found.width)),
        "levels": [list(level) for level in found.levels],
        "axes": dict(found.axes),
        "layout": found.layout,
        "bytes": found.nbytes,
        "staged": not found.lazy,
        "why_staged": found.why_staged or None,
        "staging_memory_bytes": found.staging_bytes,
        "notes": list(found.notes),
    }


def _lines(found: ImageInfo) -> list[str]:
    megapixels = found.height * found.width / 1e6
    read = (
        "by windows, nothing is staged"
        if found.lazy
        else f"staged once, {size(found.nbytes)} on disk, {size(found.staging_bytes)} of memory: {found.why_staged}"
    )
    facts = [
        ("file", f"{found.path}: {found.format}, {found.layout}"),
        (
            "size",
            f"{found.height} x {found.width} px (H x W), {megapixels:.1f} Mpx, {size(found.nbytes)}",
        ),
        ("bands", f"{found.channels}{_names(found)}"),
        ("samples", f"{found.dtype}, {found.bits} bit in the file"),
        ("range", _range(found)),
        (
            "nodata",
            "none" if found.nodata is None else f"{found.nodata:g}: kept as it is, not restored",
        ),
        *([("alpha", found.alpha)] if found.alpha else []),
        *([("colour profile", size(len(found.icc)))] if found.icc else []),
        *([("orientation", f"{found.orientation}, applied")] if found.orientation != 1 else []),
        ("pixel size", _pixel_size(found)),
        *_map(found),
        *([("levels", ", ".join(f"{h}x{w}" for h, w in found.levels))] if found.levels else []),
        *(
            [("axes", ", ".join(f"{axis} {length}" for axis, length in found.axes))]
            if found.axes
            else []
        ),
        ("read", read + _too_much(found)),
        *[("note", note) for note in found.notes],
    ]
    return [f"{name + ':':16} {text}" for name, text in facts]


def _too_much(found: ImageInfo) -> str:
    """Say where `restore` would refuse to stage an image."""
    from storage.limits import MAX_WHOLE_BYTES

    if found.staging_bytes <= MAX_WHOLE_BYTES:
        return ""
    return f"; above the limit of {size(MAX_WHOLE_BYTES)}, allow it with --max-pixels {found.height * found.width}"


def _names(found: ImageInfo) -> str:
    return f" ({', '.join(found.names)})" if found.names else ""


def _range(found: ImageInfo) -> str:
    if found.limits is None:
        return f"{found.dtype} has no black and white of its own: give --range LOW,HIGH"
    return f"{found.limits[0]:g} to {found.limits[1]:g}"


def _pixel_size(found: ImageInfo) -> str:
    if found.pixel_size is None:
        return "not stated"
    y, x = found.pixel_size
    return f"{y:g} x {x:g} micrometres (y, x)"


def _map(found: ImageInfo) -> list[tuple[str, str]]:
    if found.geo is None:
        return []
    geo = found.geo
    system = (
        f"EPSG:{geo.epsg}" if geo.epsg is not None else (geo.crs.partition(",")[0] or "not stated")
    )
    convention = ", from pixel centres" if geo.pixel_is_point else ""
    transform = ", ".join(f"{value:.12g}" for value in geo.transform)
    bounds = ", ".join(f"{value:.12g}" for value in geo.bounds(found.height, found.width))
    return [("map system", system), ("transform", transform + convention), ("bounds", bounds)]
