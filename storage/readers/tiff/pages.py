"""Which pages of a TIFF make up the image: one, the channels of a frame, or the user's choice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from storage.errors import FormatError
from storage.image import Selection, choose_frames
from storage.readers.tiff.ome_xml import OmePixels, is_ome, read_ome
from storage.readers.tiff.page_layout import MASK, page_size
from storage.units import micrometres

if TYPE_CHECKING:
    import tifffile

_REDUCED = 1
_MASK = 4
_X_RESOLUTION = 282
_Y_RESOLUTION = 283
_RESOLUTION_UNIT = 296
_CENTIMETRE = 3
_MICROMETRES_PER_CM = 1e4
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
    significant_bits: int = 0
    """Bits of a sample that are used, as OME-XML says; 0 where nothing does."""
    mask: int | None = None
    """The page that says which pixels are valid, or None."""


def find_frames(
    path: str,
    file: tifffile.TiffFile,
    selection: Selection,
) -> Frames:
    """Return the pages to read; raises FormatError, with the options, where a choice is needed."""
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


def resolution(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return pixels per unit of the resolution tags as (y, x), None where absent or nonsense."""
    per_unit = []
    for code in (_Y_RESOLUTION, _X_RESOLUTION):
        numerator, denominator = page.tags.valueof(code) or (0, 1)
        if numerator <= 0 or denominator <= 0:
            return None
        per_unit.append(numerator / denominator)
    return per_unit[0], per_unit[1]


def _microscope_size(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return the pixel size (y, x) in micrometres where it is as fine as a microscope's.

    The resolution must be in centimetres.
    """
    if page.tags.valueof(_RESOLUTION_UNIT) != _CENTIMETRE:
        return None
    per_cm = resolution(page)
    if per_cm is None:
        return None
    size_y = _MICROMETRES_PER_CM / per_cm[0]
    size_x = _MICROMETRES_PER_CM / per_cm[1]
    return (size_y, size_x) if max(size_y, size_x) <= _LARGEST_PIXEL else None


def _slide(
    path: str,
    file: tifffile.TiffFile,
    description: str,
) -> Frames:
    """Page 0 is the slide; smaller pages are its pyramid, or label, thumbnail and overview."""
    first = file.pages.first
    pages = [file.pages[number] for number in range(len(file.pages))]
    if file.is_ndpi:
        levels = [page_size(page) for page in pages if _magnification(page) > 0]
        planes = levels.count(page_size(first))
        if planes > 1:
            raise FormatError(f"{path}: an NDPI with {planes} focal planes; extract one: ndpisplit")
    else:
        levels = [page_size(page) for page in pages if page.is_tiled]

    stated = _MPP.search(description)
    side = micrometres(path, stated[1], "µm") if stated else None
    other = len(pages) - max(len(levels), 1)
    note = f"{other} associated images (label, overview or thumbnail) are left out"
    return Frames(
        pages=(0,),
        pixel_size=(side, side) if side else _microscope_size(first),
        levels=tuple(levels) or (page_size(first),),
        notes=(note,) if other else (),
    )


def _magnification(page: tifffile.TiffPage) -> float:
    value = page.tags.valueof(_NDPI_MAGNIFICATION)
    return float(value or -1)


def _ome(
    path: str,
    file: tifffile.TiffFile,
    description: str,
    selection: Selection,
) -> Frames:
    name = PurePosixPath(path.replace("\\", "/")).name
    ome = read_ome(path, description, name)
    first = file.pages.first
    _check_ome_sizes(path, ome, page_size(first))
    sizes = ome.sizes
    frame = choose_frames(path, selection, {"z": sizes["Z"], "t": sizes["T"]})
    axes = tuple((axis.lower(), sizes[axis]) for axis in "ZT" if sizes[axis] > 1)
    note = f"{len(ome.others)} further images in the file are left out"
    return Frames(
        pages=_ome_pages(path, ome, frame, len(file.pages)),
        axes=axes,
        names=ome.names,
        pixel_size=ome.pixel_size,
        significant_bits=ome.significant_bits,
        levels=_levels(first),
        notes=(note,) if ome.others else (),
    )


def _check_ome_sizes(
    path: str,
    ome: OmePixels,
    first: tuple[int, int],
) -> None:
    """Hold the OME-XML to the size of the first page, which only one of its images may have."""
    height, width = first
    stated = (ome.sizes["Y"], ome.sizes["X"])
    if stated != first:
        raise FormatError(
            f"{path}: its OME-XML says {stated[0]} x {stated[1]} px, its first page has {height} x "
            f"{width} (H x W); the file is damaged, get it again"
        )
    if stated in ome.others:
        raise FormatError(
            f"{path}: holds {len(ome.others) + 1} images of which several are of {height} x "
            f"{width} px, and it is not said which one; "
            "extract one: bfconvert -series 0 in.ome.tif out.ome.tif"
        )


def _ome_pages(
    path: str,
    ome: OmePixels,
    frame: dict[str, int],
    count: int,
) -> tuple[int, ...]:
    """Return the pages of the channels of a frame. count: pages of the file."""
    z = frame["z"]
    t = frame["t"]
    pages = []
    for channel in range(ome.sizes["C"]):
        page = ome.pages.get((channel, z, t))
        if page is None or page >= count:
            raise FormatError(
                f"{path}: its OME-XML names no page for channel {channel}, z {z}, t {t} of the "
                f"{count} pages; the file is damaged or one of several, get all of it"
            )
        pages.append(page)
    return tuple(pages)


def _imagej(
    path: str,
    file: tifffile.TiffFile,
    description: str,
    selection: Selection,
) -> Frames:
    """ImageJ's hyperstack: pages in the order T, Z, C (slowest first)."""
    stated = dict(line.partition("=")[::2] for line in description.splitlines())
    channels = _whole_number(stated.get("channels"))
    slices = _whole_number(stated.get("slices"))
    frames = _whole_number(stated.get("frames"))
    images = _whole_number(stated.get("images"))
    total = len(file.pages)
    if images > total:
        raise FormatError(
            f"{path}: an ImageJ stack of {images} images of which the tables name {total}; "
            "save it again as OME-TIFF"
        )
    if channels * slices * frames != total:
        return _plain(path, file, selection)

    frame = choose_frames(path, selection, {"z": slices, "t": frames})
    first_page = (frame["t"] * slices + frame["z"]) * channels
    axes = (("z", slices), ("t", frames))
    size = _imagej_size(path, file.pages.first, stated.get("unit", ""))
    return Frames(
        pages=tuple(range(first_page, first_page + channels)),
        axes=tuple((axis, length) for axis, length in axes if length > 1),
        pixel_size=size or _microscope_size(file.pages.first),
    )


def _imagej_size(
    path: str,
    page: tifffile.TiffPage,
    unit: str,
) -> tuple[float, float] | None:
    """Return the pixel size (y, x) in micrometres: the resolution is in ImageJ's own unit."""
    per_unit = resolution(page)
    if per_unit is None:
        return None
    size_y = micrometres(path, 1 / per_unit[0], unit)
    size_x = micrometres(path, 1 / per_unit[1], unit)
    return None if size_y is None or size_x is None else (size_y, size_x)


def _whole_number(text: str | None) -> int:
    """Return the count that a text states, 1 where it states none."""
    if text is None or not text.strip().isdecimal():
        return 1
    return max(int(text), 1)


def _plain(
    path: str,
    file: tifffile.TiffFile,
    selection: Selection,
) -> Frames:
    """One full image with its reduced copies and masks.

    Several full pages are frames that nobody named.
    """
    # By index up to the counted length: the count stops at a loop of pages, plain iteration would
    # not.
    kinds = [_kind(file.pages[number]) for number in range(len(file.pages))]
    full = [number for number, kind in enumerate(kinds) if not kind & (_REDUCED | _MASK)] or [0]
    sizes = [page_size(file.pages[number]) for number in full]
    listed = ", ".join(f"{height}x{width}" for height, width in sizes[:3])
    if len(full) > 3:
        listed += ", ..."
    frames = f"{len(full)} pages ({listed} H x W)"
    chosen = choose_frames(path, selection, {"t": len(full)}, frames)
    page = full[chosen["t"]]

    image = file.pages[page]
    reduced = [number for number, kind in enumerate(kinds) if _is_reduced(kind)]
    # Of several full pages nobody says whose reduced copies they are.
    pyramid = [page_size(file.pages[number]) for number in reduced] if len(full) == 1 else []
    return Frames(
        pages=(page,),
        axes=(("t", len(full)),) if len(full) > 1 else (),
        pixel_size=_microscope_size(image),
        levels=(page_size(image), *pyramid) if pyramid else _levels(image),
        mask=_mask_of(file, page, kinds),
    )


def _kind(page: tifffile.TiffPage) -> int:
    """Return the bits of the subfile type; a page of mask pixels is a mask without them too."""
    kind = int(page.subfiletype or 0)
    return kind | _MASK if int(page.photometric or 0) == MASK else kind


def _mask_of(file: tifffile.TiffFile, page: int, kinds: list[int]) -> int | None:
    """Return the mask of a page at its size: it follows the page, before the next full one."""
    for number in range(page + 1, len(kinds)):
        if not kinds[number] & (_REDUCED | _MASK):
            return None
        same_size = page_size(file.pages[number]) == page_size(file.pages[page])
        if kinds[number] & _MASK and same_size:
            return number
    return None


def _is_reduced(kind: int) -> bool:
    return bool(kind & _REDUCED) and not kind & _MASK


def _levels(page: tifffile.TiffPage) -> tuple[tuple[int, int], ...]:
    """Return the sizes of a page and of the reduced images that its SubIFDs hold."""
    if not page.subifds:
        return ()
    try:
        subifds = [page.pages[number] for number in range(len(page.pages))]
        sizes = [page_size(subifd) for subifd in subifds]
    except Exception:  # a broken pyramid does not harm the image, which is the page itself
        return ()
    whole = page_size(page)
    reduced = [size for size in sizes if size < whole]
    return (whole, *reduced)
