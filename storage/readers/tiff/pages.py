"""Which pages of a TIFF make up the image: one page, the channels of a frame, or a choice that the
user must make.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from storage.errors import FormatError
from storage.image import Selection, choose_frames
from storage.readers.tiff.ome_xml import is_ome, read_ome
from storage.units import micrometres

if TYPE_CHECKING:
    import tifffile

_REDUCED = 1
_MASK = 4
# NDPI: magnification of a page; label and map images have a negative one.
_NDPI_MAGNIFICATION = 65421
# Coarser resolutions (20 um is 1270 dpi) are print sizes of photographs and say nothing about the
# object, um.
_LARGEST_PIXEL = 20.0
_MPP = re.compile(r"\bMPP\s*=\s*([0-9.eE+-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """The pages of the chosen frame, and what the file says about all of them."""

    pages: tuple[int, ...]
    """One page, or one per channel."""
    axes: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    pixel_size: tuple[float, float] | None = None
    levels: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()


def find_frames(path: str, file: tifffile.TiffFile, selection: Selection) -> Frames:
    """Return the pages to read; raises FormatError naming the options where a frame is not chosen."""
    first = file.pages.first
    description = str(first.description or "")
    if file.is_svs or file.is_ndpi:
        choose_frames(path, selection, {})
        return _slide(path, file, description)
    if is_ome(description):
        return _ome(path, file, description, selection)
    if description.startswith("ImageJ="):
        return _imagej(path, file, description, selection)
    return _plain(path, file, selection)


def size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return (H, W), px."""
    return int(page.imagelength), int(page.imagewidth)


def resolution(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return pixels per unit of the resolution tags as (y, x), None where they are absent or
    nonsense.
    """
    found = []
    for code in (283, 282):
        numerator, denominator = page.tags.valueof(code) or (0, 1)
        if numerator <= 0 or denominator <= 0:
            return None
        found.append(numerator / denominator)
    return found[0], found[1]


def _microscope_size(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return (y, x) in micrometres where the resolution is in centimetres and as fine as a
    microscope's.
    """
    per_cm = resolution(page) if page.tags.valueof(296) == 3 else None
    if per_cm is None:
        return None
    sides = 1e4 / per_cm[0], 1e4 / per_cm[1]
    return sides if max(sides) <= _LARGEST_PIXEL else None


def _slide(path: str, file: tifffile.TiffFile, description: str) -> Frames:
    """Page 0 is the slide; smaller pages are its pyramid, or label, thumbnail and overview."""
    first = file.pages.first
    pages = [file.pages[number] for number in range(len(file.pages))]
    if file.is_ndpi:
        levels = [
            size(page) for page in pages if float(page.tags.valueof(_NDPI_MAGNIFICATION) or -1) > 0
        ]
        if levels.count(size(first)) > 1:
            raise FormatError(
                f"{path}: an NDPI with {levels.count(size(first))} focal planes; extract one: ndpisplit"
            )
    else:
        levels = [size(page) for page in pages if page.is_tiled]
    found = _MPP.search(description)
    mpp = micrometres(path, found[1], "µm") if found else None
    other = len(pages) - max(len(levels), 1)
    return Frames(
        pages=(0,),
        pixel_size=(mpp, mpp) if mpp else _microscope_size(first),
        levels=tuple(levels) or (size(first),),
        notes=(f"{other} associated images (label, overview or thumbnail) are left out",)
        if other
        else (),
    )


def _ome(path: str, file: tifffile.TiffFile, description: str, selection: Selection) -> Frames:
    ome = read_ome(path, description, PurePosixPath(path.replace("\\", "/")).name)
    first = file.pages.first
    sizes = ome.sizes
    if (sizes["Y"], sizes["X"]) != size(first):
        raise FormatError(
            f"{path}: its OME-XML says {sizes['Y']} x {sizes['X']} px, its first page has {size(first)[0]} x "
            f"{size(first)[1]} (H x W); the file is damaged, get it again"
        )
    if (sizes["Y"], sizes["X"]) in ome.others:
        raise FormatError(
            f"{path}: holds {len(ome.others) + 1} images of which several are of {size(first)[0]} x {size(first)[1]} "
            "px, and it is not said which one; extract one: bfconvert -series 0 in.ome.tif out.ome.tif"
        )
    frame = choose_frames(path, selection, {"z": sizes["Z"], "t": sizes["T"]})
    z = frame["z"]
    t = frame["t"]
    pages = []
    for channel in range(sizes["C"]):
        page = ome.pages.get((channel, z, t))
        if page is None or page >= len(file.pages):
            raise FormatError(
                f"{path}: its OME-XML names no page for channel {channel}, z {z}, t {t} of the "
                f"{len(file.pages)} pages; the file is damaged or one of several, get all of it"
            )
        pages.append(page)
    axes = tuple((axis.lower(), sizes[axis]) for axis in "ZT" if sizes[axis] > 1)
    note = f"{len(ome.others)} further images in the file are left out"
    return Frames(
        pages=tuple(pages),
        axes=axes,
        names=ome.names,
        pixel_size=ome.pixel_size,
        levels=_levels(file, first),
        notes=(note,) if ome.others else (),
    )


def _imagej(path: str, file: tifffile.TiffFile, description: str, selection: Selection) -> Frames:
    """ImageJ's hyperstack: pages in the order T, Z, C (slowest first)."""
    said = dict(line.partition("=")[::2] for line in description.splitlines())
    counts = {name: _whole(said.get(name)) for name in ("channels", "slices", "frames")}
    total = len(file.pages)
    stated = max(_whole(said.get("images")), 1)
    if stated > total:
        raise FormatError(
            f"{path}: an ImageJ stack of {stated} images of which the tables name {total}; save it again as OME-TIFF"
        )
    if counts["channels"] * counts["slices"] * counts["frames"] != total:
        return _plain(path, file, selection)
    frame = choose_frames(path, selection, {"z": counts["slices"], "t": counts["frames"]})
    base = (frame["t"] * counts["slices"] + frame["z"]) * counts["channels"]
    per_unit = resolution(file.pages.first)
    unit = said.get("unit", "")
    sides = [micrometres(path, 1 / side, unit) for side in per_unit] if per_unit else [None]
    known = [side for side in sides if side is not None]
    lengths = (("z", counts["slices"]), ("t", counts["frames"]))
    return Frames(
        pages=tuple(range(base, base + counts["channels"])),
        axes=tuple((axis, length) for axis, length in lengths if length > 1),
        pixel_size=(known[0], known[1]) if len(known) == 2 else _microscope_size(file.pages.first),
    )


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.strip().isdecimal() and int(text) > 0 else 1


def _plain(path: str, file: tifffile.TiffFile, selection: Selection) -> Frames:
    """One full image with its reduced copies and masks; several full pages are frames that nobody
    named.
    """
    # By index up to the counted length: the count stops at a loop of pages, plain iteration would
    # not.
    kinds = [int(file.pages[number].subfiletype or 0) for number in range(len(file.pages))]
    full = [number for number, kind in enumerate(kinds) if not kind & (_REDUCED | _MASK)] or [0]
    sizes = [size(file.pages[number]) for number in full]
    named = ", ".join(f"{height}x{width}" for height, width in sizes[:3]) + (
        ", ..." if len(full) > 3 else ""
    )
    page = full[
        choose_frames(path, selection, {"t": len(full)}, f"{len(full)} pages ({named} H x W)")["t"]
    ]
    reduced = [number for number, kind in enumerate(kinds) if kind & _REDUCED and not kind & _MASK]
    first = file.pages[page]
    own = [size(file.pages[number]) for number in reduced] if len(full) == 1 else []
    masks = sum(bool(kind & _MASK) for kind in kinds)
    return Frames(
        pages=(page,),
        axes=(("t", len(full)),) if len(full) > 1 else (),
        pixel_size=_microscope_size(first),
        levels=(size(first), *own) if own else _levels(file, first),
        notes=(f"{masks} mask pages are left out",) if masks else (),
    )


def _levels(file: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[tuple[int, int], ...]:
    """Return the sizes of a page and of the reduced images that its SubIFDs hold."""
    if not page.subifds:
        return ()
    try:
        reduced = [size(page.pages[number]) for number in range(len(page.pages))]
    except (
        Exception
    ):  # a broken pyramid does not harm the image, which is read from the page itself
        return ()
    return (size(page), *(found for found in reduced if found < size(page)))
