"""OME-XML of an OME-TIFF: axes, channels, pixel size, and which page holds which frame.

Source: OME model 2016-06, Image, Pixels, Channel, TiffData. Other files that the metadata names are
never opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from storage.errors import FormatError
from storage.readers.tiff.safe_xml import children, local_name, parse_xml
from storage.units import micrometres

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ORDERS = {"XYZCT", "XYZTC", "XYCTZ", "XYCZT", "XYTCZ", "XYTZC"}
# Planes that a file may declare: the table of them is built in memory.
_MOST_PLANES = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OmePixels:
    """One image of an OME-TIFF."""

    sizes: dict[str, int]
    """Lengths of X, Y, Z, C, T; C counts channels, not samples of one."""
    pages: dict[tuple[int, int, int], int]
    """(channel, z, t) -> page of the file."""
    names: tuple[str, ...]
    pixel_size: tuple[float, float] | None
    """(y, x) in micrometres."""
    others: tuple[tuple[int, int], ...]
    """Sizes (H, W) of further images in the file."""


def is_ome(description: str) -> bool:
    """Tell whether an image description is OME-XML."""
    return description.rstrip()[-10:].endswith("OME>") and "<OME" in description[:4096]


def read_ome(path: str, description: str, name: str) -> OmePixels:
    """Return the first image of an OME-XML text; name: of the file itself, by which its metadata
    may call it.

    Raises FormatError for broken XML and for planes that lie in other files.
    """
    root = parse_xml(description)
    if root is None:
        raise FormatError(
            f"{path}: its OME-XML cannot be parsed; write the file again, for example with bfconvert"
        )
    images = [pixels for image in children(root, "Image") for pixels in children(image, "Pixels")]
    if not images:
        raise FormatError(
            f"{path}: its OME-XML describes no image; write the file again, for example with bfconvert"
        )
    pixels = images[0]
    sizes = {axis: _count(path, pixels, f"Size{axis}") for axis in "XYZCT"}
    channels = children(pixels, "Channel")
    samples = [int(channel.get("SamplesPerPixel") or 1) for channel in channels]
    planes = len(channels) if channels and sum(samples) == sizes["C"] else sizes["C"]
    names = tuple(channel.get("Name") or "" for channel in channels) if channels else ()
    sizes["C"] = planes
    return OmePixels(
        sizes=sizes,
        pages=_pages(path, pixels, sizes, {name, *_own_names(root, pixels)}),
        names=names if all(names) and len(names) == planes else (),
        pixel_size=_pixel_size(path, pixels),
        others=tuple(
            (_count(path, other, "SizeY"), _count(path, other, "SizeX")) for other in images[1:]
        ),
    )


def _count(path: str, pixels: Element, name: str) -> int:
    try:
        value = int(pixels.get(name) or "")
    except ValueError:
        value = 0
    if value < 1:
        raise FormatError(
            f"{path}: its OME-XML says {name} = {pixels.get(name)!r}; an image needs at least 1"
        )
    return value


def _own_names(root: Element, pixels: Element) -> set[str]:
    """Return the names by which the metadata may call this file: under its own UUID, or the only
    one there is.
    """
    named = [
        (child.text, child.get("FileName"))
        for block in children(pixels, "TiffData")
        for child in block
    ]
    files = {_base(file) for _, file in named if file}
    own = {_base(file) for uuid, file in named if file and uuid and uuid == root.get("UUID")}
    return own or (files if len(files) == 1 else set())


def _base(file: str) -> str:
    return PurePosixPath(file.replace("\\", "/")).name


def _pages(
    path: str, pixels: Element, sizes: dict[str, int], own: set[str]
) -> dict[tuple[int, int, int], int]:
    """Return (c, z, t) -> page, from the TiffData blocks: each names its first plane, first page
    and count.
    """
    order = pixels.get("DimensionOrder") or "XYCZT"
    if order not in _ORDERS:
        raise FormatError(
            f"{path}: its OME-XML says DimensionOrder = {order!r}, which is none of the six that exist"
        )
    axes = order[2:]
    total = sizes["C"] * sizes["Z"] * sizes["T"]
    if total > _MOST_PLANES:
        raise FormatError(
            f"{path}: its OME-XML declares {total} planes, above the limit of {_MOST_PLANES}"
        )
    blocks = children(pixels, "TiffData")
    found: dict[tuple[int, int, int], int] = {}
    for block in blocks:
        _refuse_elsewhere(path, block, own)
        page = int(block.get("IFD") or 0)
        first = {axis: int(block.get(f"First{axis}") or 0) for axis in axes}
        given = block.get("PlaneCount")
        count = int(given) if given is not None else (1 if block.get("IFD") is not None else total)
        plane = _plane(first, axes, sizes)
        for step in range(min(count, total - plane)):
            found[_indices(plane + step, axes, sizes)] = page + step
    if not blocks:
        found = {_indices(plane, axes, sizes): plane for plane in range(total)}
    return found


def _refuse_elsewhere(path: str, block: Element, own: set[str]) -> None:
    for child in block:
        file = child.get("FileName") if local_name(child) == "UUID" else None
        if file and _base(file) not in own:
            raise FormatError(
                f"{path}: an OME-TIFF of several files (planes in {file[:80]!r}), of which none is followed; "
                "join them: bfconvert in.ome.tif out.ome.tif"
            )


def _plane(index: dict[str, int], axes: str, sizes: dict[str, int]) -> int:
    fast, middle, slow = tuple(axes)
    return index[fast] + sizes[fast] * (index[middle] + sizes[middle] * index[slow])


def _indices(plane: int, axes: str, sizes: dict[str, int]) -> tuple[int, int, int]:
    index = {}
    for axis in axes:
        plane, index[axis] = divmod(plane, sizes[axis])
    return index["C"], index["Z"], index["T"]


def _pixel_size(path: str, pixels: Element) -> tuple[float, float] | None:
    sides = []
    for axis in "YX":
        value = pixels.get(f"PhysicalSize{axis}")
        side = (
            None
            if value is None
            else micrometres(path, value, pixels.get(f"PhysicalSize{axis}Unit") or "µm")
        )
        if side is None:
            return None
        sides.append(side)
    return sides[0], sides[1]
