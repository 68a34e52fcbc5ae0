"""What a reader delivers from what a file stores: chosen samples, converted, the right way up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from storage.box import Box
from storage.image import Dtype, ImageInfo, check_inside
from storage.readers.common import exif
from storage.validity import both, by_value, opacity_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.image import Marks, Opacity, Pixels

# Sample types that fit another one exactly, and become it; others are delivered as is or refused.
WIDENED: dict[str, Dtype] = {"int8": "int16", "float16": "float32"}
DELIVERED: dict[str, Dtype] = {
    **WIDENED,
    "uint8": "uint8",
    "uint16": "uint16",
    "int16": "int16",
    "float32": "float32",
}
"""Stored sample type -> delivered one; any other type is refused."""


class Decoder(Protocol):
    """Deliver stored samples by windows of the stored grid. Safe to call from several threads."""

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (len(samples), h, w) in the stored dtype, native byte order."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConversion:
    """How stored samples become delivered ones."""

    samples: tuple[int, ...]
    """Stored samples to read, in this order."""
    inverted_peak: int | None = None
    """The value that means black, where 0 means white."""
    bilevel: bool = False
    """One bit per sample: 0 and 255 are delivered."""
    palette: NDArray[np.generic] | None = None
    """(3, entries): the colours that the stored numbers stand for."""

    alpha: int | None = None
    """The stored sample that is 0 where a pixel has no data."""
    alpha_peak: float | None = None
    """What is wholly opaque; None: the largest value of the stored type, 1 of floats."""
    key: tuple[int, ...] | None = None
    """The stored samples of pixels without data: a transparent colour."""
    entry_opacity: NDArray[np.uint8] | None = None
    """How opaque the colours of a palette are, (entries,); None: wholly."""

    @property
    def has_transparency(self) -> bool:
        """Whether the stored samples say which pixels are valid."""
        means = (self.alpha, self.key, self.entry_opacity)
        return any(way is not None for way in means)

    @property
    def further(self) -> tuple[int, ...]:
        """Return the stored samples that are read only to know which pixels are valid."""
        return () if self.alpha is None else (self.alpha,)

    def opaque(self, stored: Pixels) -> Marks:
        """Return which pixels are valid by their stored samples, `samples` and then `further`.

        (S, h, w) -> (1, h, w).
        """
        if self.alpha is not None:
            return np.asarray(stored[-1:] != 0)
        if self.entry_opacity is not None:
            return np.asarray(self.entry_opacity[stored[:1]] != 0)
        assert self.key is not None, "has_transparency was asked for"
        wanted = np.array(self.key, stored.dtype).reshape(-1, 1, 1)
        return ~np.asarray((stored == wanted).all(axis=0, keepdims=True))

    def apply(self, stored: Pixels, dtype: Dtype) -> Pixels:
        """Return the delivered samples of stored ones, (S, h, w) -> (C, h, w)."""
        if self.palette is not None:
            numbers = stored[0].astype(np.intp)
            return self.palette[:, numbers]
        if self.bilevel:
            ones = stored.astype(bool)
            white = ~ones if self.inverted_peak is not None else ones
            return white * np.uint8(255)
        if self.inverted_peak is not None:
            peak = stored.dtype.type(self.inverted_peak)
            return np.asarray(peak - stored)
        return stored.astype(dtype, copy=False)


class MaskDecoder(Protocol):
    """Deliver by windows of the stored grid which samples are valid."""

    def read(self, box: Box) -> Marks:
        """Return (1, h, w), or one for each delivered band."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class ConvertingReader:
    """Read windows of an image through a decoder, as its description promises."""

    def __init__(
        self,
        info: ImageInfo,
        decoder: Decoder,
        conversion: SampleConversion,
        masks: Sequence[MaskDecoder] = (),
    ) -> None:
        """masks: what says beside the samples which of them are none."""
        self.info = info
        self._decoder = decoder
        self._conversion = conversion
        self._masks = tuple(masks)
        self._latest: tuple[Box, Pixels] | None = None

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the delivered dtype; see `Reader.read`."""
        check_inside(self.info, box)
        stored = self._decoder.read(_stored_box(box, self.info), self._conversion.samples)
        return self._upright(self._conversion.apply(stored, self.info.dtype))

    def read_valid(self, box: Box) -> tuple[Pixels, Marks | None]:
        """Return pixels and which of them are valid; see `Reader.read_valid`."""
        check_inside(self.info, box)
        place = _stored_box(box, self.info)
        conversion = self._conversion
        wanted = (*conversion.samples, *conversion.further)
        stored = self._decoder.read(place, wanted)
        count = len(conversion.samples)
        pixels = self._upright(conversion.apply(stored[:count], self.info.dtype))

        self._latest = (box, stored[-1:])
        valid = by_value(pixels, self.info.nodata)
        marks = [conversion.opaque(stored)] if conversion.has_transparency else []
        marks += [mask.read(place) for mask in self._masks]
        for mark in marks:
            valid = both(valid, self._upright(mark))
        return pixels, valid

    def opacity(self, box: Box) -> Opacity | None:
        """Return how opaque the pixels are, (1, h, w); see `Reader.opacity`."""
        conversion = self._conversion
        entries = conversion.entry_opacity
        if conversion.alpha is None and entries is None:
            return None
        latest, stored = self._latest or (None, None)
        if latest != box or stored is None:  # else the stored samples were read a moment ago
            stored = self._decoder.read(_stored_box(box, self.info), (conversion.alpha or 0,))
        if entries is not None:
            return self._upright(entries[stored])
        return self._upright(opacity_of(stored, conversion.alpha_peak or _peak(stored)))

    def _upright(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Turn (C, h, w) as the image is turned."""
        if self.info.orientation == 1:
            return np.ascontiguousarray(stored)
        rows = stored.transpose(1, 2, 0)
        turned = exif.upright(rows, self.info.orientation)
        return np.ascontiguousarray(turned.transpose(2, 0, 1))

    def close(self) -> None:
        """Release the file."""
        self._decoder.close()
        for mask in self._masks:
            mask.close()


def _peak(alpha: Pixels) -> float:
    return float(np.iinfo(alpha.dtype).max) if alpha.dtype.kind in "iu" else 1.0


def _stored_box(box: Box, info: ImageInfo) -> Box:
    """Return the box of the stored grid whose pixels are `box` of the upright image.

    It undoes `exif.upright`.
    """
    y0 = box.y0
    x0 = box.x0
    y1 = box.y1
    x1 = box.x1
    if info.orientation in exif.UPSIDE_DOWN:
        y0, y1 = info.height - y1, info.height - y0
    if info.orientation in exif.MIRRORED:
        x0, x1 = info.width - x1, info.width - x0
    if exif.swaps_sides(info.orientation):
        return Box(x0, y0, x1, y1)
    return Box(y0, x0, y1, x1)
