"""gigarestore info: what was understood of an image file, before anything is restored."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cluster.options import options as opt
from cluster.options.options import takes
from cluster.options.parsers import parse_channels
from cluster.terminal.progress import size

if TYPE_CHECKING:
    from orchestrator.job.fields.sections import InputSpec
    from orchestrator.job.inputs import NoiseSurvey, RangeSurvey
    from storage.image import ImageInfo

# A file that is decoded whole is not looked into above this, bytes.
MOST_DECODED = 64_000_000


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
    image = inspect(
        file, Selection(channel=channel, z=given["z"], t=given["t"]), max_pixels=given["max_pixels"]
    )
    looks = _look(image, {**given, "path": file, "channel": channel})
    print(json.dumps(as_dict(image, looks)) if as_json else "\n".join(_lines(image, looks)))


class Looks(NamedTuple):
    """What a look at the pixels says, or why there was none."""

    range: RangeSurvey | str
    noise: NoiseSurvey | str
    blocks: str = ""
    """The blocks of an earlier lossy coding that the pixels show, in words."""


def _look(image: ImageInfo, given: dict[str, Any]) -> Looks:
    """Look at the pixels, where that does not decode too much."""
    from orchestrator.job.fields.pixel_rules import CURRENT
    from orchestrator.job.fields.sections import InputSpec
    from orchestrator.measurement.noise_survey import survey_noise
    from orchestrator.measurement.range_survey import survey_range
    from storage.errors import FormatError, one_line

    if not image.lazy and image.staging_bytes > MOST_DECODED:
        why = "not looked at, the whole file would be decoded"
        return Looks(f"{why}; plan and restore do", f"{why}; --sigma auto does")
    spec = InputSpec(**given)
    try:
        return Looks(
            survey_range(spec, image, CURRENT, apart=True),
            survey_noise(spec),
            _earlier(image, spec),
        )
    except FormatError as err:
        why = f"not looked at: {one_line(err)}"
        return Looks(why, why)


def _earlier(image: ImageInfo, spec: InputSpec) -> str:
    """Say where the pixels show blocks that the file's own coding has not left."""
    from orchestrator.measurement.block_lattice import find_lattices
    from orchestrator.measurement.input_file import open_file

    reader = open_file(spec)
    try:
        rows, columns = find_lattices(reader)
    finally:
        reader.close()
    found = [
        f"{name} {lattice.offset}"
        for name, lattice in (("row", rows), ("column", columns))
        if lattice.side > 1
    ]
    own = image.coding is not None and image.coding.blocks is not None
    if not found or (own and rows.offset == columns.offset == 0):
        return ""
    side = max(rows.side, columns.side)
    return f"blocks of {side} px from {' and '.join(found)} on, of an earlier lossy coding"


def as_dict(image: ImageInfo, looks: Looks) -> dict[str, Any]:
    """Return a description as JSON values; the colour profile only as its length."""
    nodata = image.nodata
    return {
        "path": image.path,
        "format": image.format,
        "height": image.height,
        "width": image.width,
        "bands": image.channels,
        "names": list(image.names),
        "dtype": image.dtype,
        "bits": image.bits,
        "range": None if image.limits is None else list(image.limits),
        "nodata": nodata if nodata is None or math.isfinite(nodata) else str(nodata),
        "valid_by": image.valid_by or None,
        "alpha": image.alpha or None,
        "icc_bytes": len(image.icc) if image.icc else None,
        "orientation": image.orientation,
        "pixel_size_um": None if image.pixel_size is None else list(image.pixel_size),
        "geo": None if image.geo is None else image.geo.as_dict(),
        "bounds": None if image.geo is None else list(image.geo.bounds(image.height, image.width)),
        "levels": [list(level) for level in image.levels],
        "axes": dict(image.axes),
        "layout": image.layout,
        "bytes": image.nbytes,
        "staged": not image.lazy,
        "why_staged": image.why_staged or None,
        "staging_memory_bytes": image.staging_bytes,
        "coding": None if image.coding is None else image.coding.as_dict(),
        "black_and_white": _numbers(image, looks.range),
        "noise": None if isinstance(looks.noise, str) else list(looks.noise.levels),
        "notes": list(image.notes),
    }


def _lines(image: ImageInfo, looks: Looks) -> list[str]:
    megapixels = image.height * image.width / 1e6
    facts = [
        ("file", f"{image.path}: {image.format}, {image.layout}"),
        (
            "size",
            f"{image.height} x {image.width} px (H x W), {megapixels:.1f} Mpx, "
            f"{size(image.nbytes)}",
        ),
        ("bands", f"{image.channels}{_names(image)}"),
        ("samples", f"{image.dtype}, {image.bits} bit in the file"),
        *_coding(image, looks),
        ("range", _range(image, looks.range)),
        ("noise", str(looks.noise)),
        ("nodata", _nodata(image)),
        *([("valid by", f"{image.valid_by}: kept as it is")] if image.valid_by else []),
        *([("alpha", image.alpha)] if image.alpha else []),
        *([("colour profile", size(len(image.icc)))] if image.icc else []),
        *([("orientation", f"{image.orientation}, applied")] if image.orientation != 1 else []),
        ("pixel size", _pixel_size(image)),
        *_map(image),
        *([("levels", ", ".join(f"{h}x{w}" for h, w in image.levels))] if image.levels else []),
        *(
            [("axes", ", ".join(f"{axis} {length}" for axis, length in image.axes))]
            if image.axes
            else []
        ),
        ("read", _how_read(image)),
        *[("note", note) for note in image.notes],
    ]
    return [f"{name + ':':16} {text}" for name, text in facts]


def _coding(image: ImageInfo, looks: Looks) -> list[tuple[str, str]]:
    """Say what loss the pixels have been through, in the file and before."""
    said = [image.coding.in_words()] if image.coding else []
    said += [looks.blocks] if looks.blocks else []
    return [("coding", "; ".join(said))] if said else []


def _nodata(image: ImageInfo) -> str:
    if image.nodata is None:
        return "none"
    where = "no number (nan)" if math.isnan(image.nodata) else f"{image.nodata:g}"
    return f"where samples are {where}: kept as it is, not restored"


def _how_read(image: ImageInfo) -> str:
    if image.lazy:
        return "by windows, nothing is staged"
    disk = size(image.nbytes)
    memory = size(image.staging_bytes)
    staged = f"staged once, {disk} on disk, {memory} of memory: {image.why_staged}"
    return staged + _too_much(image)


def _too_much(image: ImageInfo) -> str:
    """Say where `restore` would refuse to stage an image."""
    from storage.limits import MAX_WHOLE_BYTES

    if image.staging_bytes <= MAX_WHOLE_BYTES:
        return ""
    return (
        f"; above the limit of {size(MAX_WHOLE_BYTES)}, allow it with --max-pixels "
        f"{image.height * image.width}"
    )


def _names(image: ImageInfo) -> str:
    return f" ({', '.join(image.names)})" if image.names else ""


def _numbers(image: ImageInfo, found: RangeSurvey | str) -> list[list[float]] | None:
    """Return black and white of all bands, or of each, that a restoration takes by default."""
    from orchestrator.job.value_range import LIMITS, of_each_band

    if isinstance(found, str):
        return None
    return [list(ends) for ends in of_each_band(found.values or LIMITS[image.dtype])]


def _range(image: ImageInfo, found: RangeSurvey | str) -> str:
    """Say which samples are black and white to a restoration, and where that is from."""
    if isinstance(found, str):
        return found
    ends = [f"{low:g} to {high:g}" for low, high in _numbers(image, found) or ()]
    return f"{'; '.join(ends)} ({found.source})"


def _pixel_size(image: ImageInfo) -> str:
    if image.pixel_size is None:
        return "not stated"
    y, x = image.pixel_size
    return f"{y:g} x {x:g} micrometres (y, x)"


def _map(image: ImageInfo) -> list[tuple[str, str]]:
    if image.geo is None:
        return []
    geo = image.geo
    system = (
        f"EPSG:{geo.epsg}" if geo.epsg is not None else (geo.crs.partition(",")[0] or "not stated")
    )
    convention = ", from pixel centres" if geo.pixel_is_point else ""
    transform = ", ".join(f"{value:.12g}" for value in geo.transform)
    bounds = ", ".join(f"{value:.12g}" for value in geo.bounds(image.height, image.width))
    return [("map system", system), ("transform", transform + convention), ("bounds", bounds)]
