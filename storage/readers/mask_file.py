"""A mask file beside an image, NAME.msk: how GDAL writes validity that a format has no place for.

Source: GDAL, RFC 15: a TIFF of the image's size, one band for all bands of the image or one for
each (INTERNAL_MASK_FLAGS), where anything but 0 is valid.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storage.byte_source import is_url
from storage.errors import FormatError
from storage.validity import both

if TYPE_CHECKING:
    from storage.box import Box
    from storage.image import ImageInfo, Marks, Opacity, Pixels, Reader

_SUFFIX = ".msk"
# TIFF and BigTIFF, little and big endian.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def mask_file(path: str) -> str | None:
    """Return the mask file beside a local file, None where there is none.

    Another kind of file of that name is not touched.
    """
    beside = Path(f"{path}{_SUFFIX}")
    if is_url(path) or not (beside.is_file() and Path(path).is_file()):
        return None
    with beside.open("rb") as file:
        return str(beside) if file.read(len(_TIFF[0])) in _TIFF else None


def describe_masked(info: ImageInfo, beside: str) -> ImageInfo:
    """Return the description of an image with its mask file; raises FormatError where they differ.

    Both can be read by windows, or both are staged.
    """
    from storage.readers.tiff.describe import inspect_tiff

    mask = inspect_tiff(beside)
    if (mask.height, mask.width) != (info.height, info.width) or info.orientation != 1:
        raise FormatError(
            f"{beside}: the mask of {info.path} is {mask.height} x {mask.width} px, the image "
            f"{info.height} x {info.width} (H x W); make it again, or move it away"
        )
    words = f"mask file {Path(beside).name}"
    staged = info.lazy and not mask.lazy
    return replace(
        info,
        mask="mask",
        valid_by=f"{info.valid_by} and {words}" if info.valid_by else words,
        beside=beside,
        lazy=info.lazy and mask.lazy,
        why_staged=f"windows of {words} are slow to read" if staged else info.why_staged,
        staging_bytes=info.staging_bytes + mask.staging_bytes,
    )


class MaskedReader:
    """Read windows of an image, and which of its samples its mask file calls valid."""

    def __init__(self, reader: Reader, beside: str, chosen: tuple[int, ...] | None) -> None:
        """chosen: bands of the file that are read; None: the first ones."""
        from storage.readers.tiff.tiff_reader import open_tiff

        self.info = describe_masked(reader.info, beside)
        self._reader = reader
        self._mask = open_tiff(beside)
        bands = chosen or tuple(range(self.info.channels))
        per_band = self._mask.info.channels > max(bands)
        self._bands = bands if per_band else (0,)

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w); see `Reader.read`."""
        return self._reader.read(box)

    def read_valid(self, box: Box) -> tuple[Pixels, Marks | None]:
        """Return pixels and which of them are valid; see `Reader.read_valid`."""
        pixels, valid = self._reader.read_valid(box)
        marks = self._mask.read(box)[list(self._bands)]
        return pixels, both(valid, np.asarray(marks != 0))

    def opacity(self, box: Box) -> Opacity | None:
        """Return how opaque the pixels of the image itself are; see `Reader.opacity`."""
        return self._reader.opacity(box)

    def close(self) -> None:
        """Release both files."""
        self._reader.close()
        self._mask.close()
