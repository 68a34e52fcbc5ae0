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
    significant_bits: int
    """Bits of a sample that are used; 0 where it is not said."""
    others: tuple[tuple[int, int], ...]
    """Sizes (H, W) of further images in the file."""


def is_ome(description: str) -> bool:
    """Tell whether an image description is OME-XML."""
    return description.rstrip()[-10:].endswith("OME>") and "<OME" in description[:4096]


def read_ome(
    path: str,
    description: str,
    name: str,
) -> OmePixels:
    """Return the first image of an OME-XML text.

    name: of the file itself, by which its metadata may call it. Raises FormatError for broken XML
    and for planes that lie in other files.
    """
    root = parse_xml(description)
    if root is None:
        raise FormatError(
            f"{path}: its OME-XML cannot be parsed; "
            "write the file again, for example with bfconvert"
        )
    images = [pixels for image in children(root, "Image") for pixels in children(image, "Pixels")]
    if not images:
        raise FormatError(
            f"{path}: its OME-XML describes no image; "
            "write the file again, for example with bfconvert"
        )
    pixels, *others = images
    sizes = {axis: _count(path, pixels, f"Size{axis}") for axis in "XYZCT"}
    channels = children(pixels, "Channel")
    samples = sum(int(channel.get("SamplesPerPixel") or 1) for channel in channels)
    # SizeC counts samples; channels of several samples each are one page.
    if channels and samples == sizes["C"]:
        sizes["C"] = len(channels)
    names = tuple(channel.get("Name") or "" for channel in channels)
    all_named = all(names) and len(names) == sizes["C"]
    own_names = {name, *_own_names(root, pixels)}
    return OmePixels(
        sizes=sizes,
        pages=_pages(path, pixels, sizes, own_names),
        names=names if all_named else (),
        pixel_size=_pixel_size(path, pixels),
        significant_bits=_significant_bits(pixels),
        others=tuple(
            (_count(path, other, "SizeY"), _count(path, other, "SizeX")) for other in others
        ),
    )


def _count(
    path: str,
    pixels: Element,
    name: str,
) -> int:
    try:
        value = int(pixels.get(name) or "")
    except ValueError:
        value = 0
    if value < 1:
        raise FormatError(
            f"{path}: its OME-XML says {name} = {pixels.get(name)!r}; an image needs at least 1"
        )
    return value


def _significant_bits(pixels: Element) -> int:
    """Return how many bits of a sample are used, 0 where that is not said."""
    text = pixels.get("SignificantBits") or ""
    return int(text) if text.isdecimal() else 0


def _own_names(root: Element, pixels: Element) -> set[str]:
    """Return the names by which the metadata may call this file.

    Those under its own UUID, or the only one there is.
    """
    own_uuid = root.get("UUID")
    files = set()
    own = set()
    for block in children(pixels, "TiffData"):
        for child in block:
            file = child.get("FileName")
            if not file:
                continue
            files.add(_base(file))
            if child.text and child.text == own_uuid:
                own.add(_base(file))
    if own:
        return own
    return files if len(files) == 1 else set()


def _base(file: str) -> str:
    return PurePosixPath(file.replace("\\", "/")).name


def _pages(
    path: str,
    pixels: Element,
    sizes: dict[str, int],
    own: set[str],
) -> dict[tuple[int, int, int], int]:
    """Return (c, z, t) -> page, from the TiffData blocks.

    Each block names its first plane, first page and count.
    """
    order = pixels.get("DimensionOrder") or "XYCZT"
    if order not in _ORDERS:
        raise FormatError(
            f"{path}: its OME-XML says DimensionOrder = {order!r}, "
            "which is none of the six that exist"
        )
    axes = order[2:]
    total = sizes["C"] * sizes["Z"] * sizes["T"]
    if total > _MOST_PLANES:
        raise FormatError(
            f"{path}: its OME-XML declares {total} planes, above the limit of {_MOST_PLANES}"
        )
    blocks = children(pixels, "TiffData")
    if not blocks:
        return {_indices(plane, axes, sizes): plane for plane in range(total)}

    pages: dict[tuple[int, int, int], int] = {}
    for block in blocks:
        _refuse_elsewhere(path, block, own)
        first_page = int(block.get("IFD") or 0)
        first = {axis: int(block.get(f"First{axis}") or 0) for axis in axes}
        first_plane = _plane(first, axes, sizes)
        count = min(_plane_count(block, total), total - first_plane)
        for step in range(count):
            place = _indices(first_plane + step, axes, sizes)
            pages[place] = first_page + step
    return pages


def _plane_count(block: Element, total: int) -> int:
    """Return the planes of a block: as stated, else one where it names its page, else all."""
    stated = block.get("PlaneCount")
    if stated is not None:
        return int(stated)
    return 1 if block.get("IFD") is not None else total


def _refuse_elsewhere(
    path: str,
    block: Element,
    own: set[str],
) -> None:
    for child in block:
        file = child.get("FileName") if local_name(child) == "UUID" else None
        if file and _base(file) not in own:
            raise FormatError(
                f"{path}: an OME-TIFF of several files (planes in {file[:80]!r}), of which none is "
                "followed; join them: bfconvert in.ome.tif out.ome.tif"
            )


def _plane(
    index: dict[str, int],
    axes: str,
    sizes: dict[str, int],
) -> int:
    """Return the number of a plane, counted along `axes`, the fastest first."""
    fast, middle, slow = tuple(axes)
    row = index[middle] + sizes[middle] * index[slow]
    return index[fast] + sizes[fast] * row


def _indices(
    plane: int,
    axes: str,
    sizes: dict[str, int],
) -> tuple[int, int, int]:
    """Return (c, z, t) of the number of a plane."""
    index = {}
    rest = plane
    for axis in axes:
        rest, index[axis] = divmod(rest, sizes[axis])
    return index["C"], index["Z"], index["T"]


def _pixel_size(path: str, pixels: Element) -> tuple[float, float] | None:
    size_y = _physical_size(path, pixels, "PhysicalSizeY")
    size_x = _physical_size(path, pixels, "PhysicalSizeX")
    return None if size_y is None or size_x is None else (size_y, size_x)


def _physical_size(
    path: str,
    pixels: Element,
    name: str,
) -> float | None:
    """Return a side in micrometres, the unit that holds where none is named."""
    value = pixels.get(name)
    if value is None:
        return None
    unit = pixels.get(f"{name}Unit") or "µm"
    return micrometres(path, value, unit)
