"""Whole slides through OpenSlide (extra `wsi`): formats that no other reader puts together.

OpenSlide delivers 8 bit RGB with premultiplied alpha; what the scanner left out is white.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from storage.errors import DamagedError, FormatError, one_line
from storage.image import (
    EVERYTHING,
    ImageInfo,
    Selection,
    check_inside,
    check_size,
    choose_bands,
    choose_frames,
)
from storage.limits import MAX_PIXELS
from storage.units import micrometres

if TYPE_CHECKING:
    from storage.box import Box
    from storage.image import Marks, Opacity, Pixels

# Of these tifffile makes the image itself, faster and without the detour over RGBA.
_BY_TIFFFILE = {"aperio", "hamamatsu", "generic-tiff", "trestle"}
# Properties with the pixel size (y, x), um.
_PIXEL_SIZE = ("openslide.mpp-y", "openslide.mpp-x")


def is_slide(path: str) -> bool:
    """Tell whether OpenSlide is installed and knows the format."""
    return _vendor(path) is not None


def needs_openslide(path: str) -> bool:
    """Tell whether a TIFF is a slide for OpenSlide alone, and OpenSlide is installed."""
    vendor = _vendor(path)
    return vendor is not None and vendor not in _BY_TIFFFILE


def inspect_slide(
    path: str,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int = MAX_PIXELS,
) -> ImageInfo:
    """Describe a slide's finest level; raises FormatError when OpenSlide cannot open it."""
    reader = SlideReader(path, selection, max_pixels=max_pixels)
    reader.close()
    return reader.info


class SlideReader:
    """Read windows of a slide's finest level."""

    info: ImageInfo

    def __init__(
        self,
        path: str,
        selection: Selection = EVERYTHING,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        import openslide

        try:
            self._slide = openslide.OpenSlide(path)
            properties = dict(self._slide.properties)
            levels = tuple((height, width) for width, height in self._slide.level_dimensions)
        except Exception as error:  # OpenSlide's errors differ by format; all mean the same
            raise FormatError(
                f"{path}: OpenSlide cannot read it: {one_line(error)}; get it again"
            ) from error
        choose_frames(path, selection, {})
        self._bands = choose_bands(path, selection.channel, 3, None)
        height, width = levels[0]
        check_size(path, height, width, max_pixels)
        vendor = properties.get("openslide.vendor", "unknown")
        self._lock = threading.Lock()
        self.info = ImageInfo(
            path=path,
            format="slide",
            height=height,
            width=width,
            channels=len(self._bands),
            dtype="uint8",
            bits=8,
            lazy=True,
            why_staged="",
            layout=f"{vendor} slide through OpenSlide",
            grain=(256, 256),
            limits=(0.0, 255.0),
            icc=_profile(self._slide),
            pixel_size=_pixel_size(path, properties),
            levels=levels if len(levels) > 1 else (),
            mask="mask",
            valid_by="areas that the scanner left out",
            notes=("areas that the scanner left out are white, and no measurement",),
        )

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w); see `Reader.read`."""
        return self.read_valid(box)[0]

    def read_valid(self, box: Box) -> tuple[Pixels, Marks | None]:
        """Return pixels and which of them the scanner took; see `Reader.read_valid`."""
        import numpy as np

        check_inside(self.info, box)
        corner = (box.x0, box.y0)
        size = (box.width, box.height)
        try:
            with self._lock:  # an error makes the handle useless for all threads
                region = np.asarray(self._slide.read_region(corner, 0, size))
        except Exception as error:  # as in __init__
            raise DamagedError(
                f"{self.info.path}: {box} cannot be decoded: {one_line(error)}; get it again"
            ) from error
        colours = region[..., :3].astype(np.uint16)
        alpha = region[..., 3:].astype(np.uint16)
        on_white = (colours * alpha + 255 * (255 - alpha) + 127) // 255
        bands = on_white.astype(np.uint8).transpose(2, 0, 1)[list(self._bands)]
        taken = np.asarray(region[..., 3][None] != 0)
        return np.ascontiguousarray(bands), taken

    def opacity(self, box: Box) -> Opacity | None:
        """Return None: what a scanner took is opaque."""
        return None

    def close(self) -> None:
        """Close the slide."""
        self._slide.close()


def _vendor(path: str) -> str | None:
    try:
        import openslide
    except ImportError:
        return None
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except Exception:  # a file that even detection stumbles over is not a slide
        return None
    return None if vendor is None else str(vendor)


def _pixel_size(path: str, properties: dict[str, str]) -> tuple[float, float] | None:
    """Return (y, x) in micrometres."""
    if not all(key in properties for key in _PIXEL_SIZE):
        return None
    size_y, size_x = (micrometres(path, properties[key], "µm") for key in _PIXEL_SIZE)
    return None if size_y is None or size_x is None else (size_y, size_x)


def _profile(slide: Any) -> bytes | None:
    profile = slide.color_profile
    return None if profile is None else bytes(profile.tobytes())
