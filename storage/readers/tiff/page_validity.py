"""What a TIFF page says of which of its pixels are valid, beside a nodata value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from storage.errors import FormatError
from storage.readers.tiff import geotags
from storage.readers.tiff.page_layout import stored_samples, unwritten
from storage.validity import VALID

if TYPE_CHECKING:
    import tifffile
    from numpy.typing import NDArray

    from storage.image import MaskForm
    from storage.readers.tiff.pages import Frames

    Alpha = Literal["", "associated", "unassociated"]

_COLOUR_MAP = 320


def refuse_classes(path: str, page: tifffile.TiffPage) -> None:
    """Raise FormatError for a map of classes: numbers with colours, which lie on a map."""
    has_colours = page.tags.valueof(_COLOUR_MAP) is not None
    if has_colours and geotags.is_georeferenced(page):
        raise FormatError(
            f"{path}: class numbers with a colour table, on a map: between two classes lies no "
            "third one that could be restored; give their colours: "
            "gdal_translate -expand rgb in.tif out.tif"
        )


def alpha_of(page: tifffile.TiffPage) -> tuple[int | None, Alpha]:
    """Return (sample, kind) of the alpha channel; further samples follow the colours."""
    extra = [int(kind) for kind in page.extrasamples]
    first_extra = stored_samples(page) - len(extra)
    for place, kind in enumerate(extra):
        if kind == 1:
            return first_extra + place, "associated"
        if kind == 2:
            return first_extra + place, "unassociated"
    return None, ""


def alpha_notes(
    alpha: Alpha,
    band: int | None,
    chosen: tuple[int, ...],
    stored: int,
) -> tuple[str, ...]:
    if band is None or band in chosen:
        return ()
    everything = ",".join(map(str, range(stored)))
    return (
        f"the {alpha} alpha channel is left out of the bands: where it is 0 there is no data; "
        f"--channel {everything} makes it a band",
    )


def page_validity(
    pages: tuple[tifffile.TiffPage, ...], frames: Frames, *, alpha: Alpha, entry: bool, nodata: bool
) -> tuple[MaskForm, str]:
    """Return how the file says which pixels are valid, beside a nodata value, and that in words."""
    words = []
    if alpha:
        words.append("alpha channel")
    if entry:
        words.append("palette entry")
    if frames.mask is not None:
        words.append("mask page")
    if not nodata and any(map(unwritten, pages)):
        words.append("tiles without bytes")
    form: MaskForm = "mask" if words else ""
    if words == ["alpha channel"]:
        form = "associated" if alpha == "associated" else "alpha"
    return form, " and ".join(words)


def all_but(entry: int, page: tifffile.TiffPage) -> NDArray[np.uint8]:
    """Return the opacity of palette entries of which one means that there is no data."""
    opacity = np.full(1 << int(page.bitspersample), VALID, np.uint8)
    opacity[entry : entry + 1] = 0
    return opacity
