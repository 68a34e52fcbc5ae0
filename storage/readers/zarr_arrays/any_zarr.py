"""Zarr of any origin by windows: OME-Zarr 0.4 and 0.5, plain arrays of format 2 and 3.

Local, or behind a URL.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from storage.box import Box
from storage.byte_source import redact
from storage.errors import DamagedError, FormatError, one_line
from storage.image import (
    EVERYTHING,
    ITEMSIZE,
    UNNAMED,
    ImageInfo,
    Selection,
    check_inside,
    check_size,
    choose_bands,
    choose_frames,
)
from storage.limits import MAX_PIXELS, MAX_SEGMENT_BYTES
from storage.readers.common.sample_conversion import DELIVERED, WIDENED
from storage.readers.common.staging_blocks import cut
from storage.readers.zarr_arrays.image_array import ImageArray, find_image
from storage.validity import both, by_value

if TYPE_CHECKING:
    from storage.image import Marks, Opacity, Pixels

# Chunks above this side, or with more planes than this besides the wanted one, are staged: a window
# would decode much that it does not need.
_LAZY_SIDE = 1024
_LAZY_PLANES = 16
# Chunks that a block of chunks of ours can touch, which zarr decodes at the same time.
_AT_ONCE = 4


class AnyZarrReader:
    """Read windows of the chosen frame and bands; nothing is kept between reads."""

    def __init__(
        self,
        path: str,
        selection: Selection = EVERYTHING,
        *,
        level: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        image = find_image(path, level, selection)
        self._array = image.array
        self._validity = image.validity
        self._axes = image.axes
        self.info, self._bands, self._frame = _describe(redact(path), image, selection, max_pixels)

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the delivered dtype; see `Reader.read`."""
        check_inside(self.info, box)
        return self._read(self._array, box).astype(self.info.dtype, copy=False)

    def _read(self, array: zarr.Array[Any], box: Box) -> Pixels:
        if "c" not in self._axes:
            return self._plane(array, box, None)[np.newaxis]
        planes = [self._plane(array, box, band) for band in self._bands]
        return np.stack(planes)

    def read_valid(self, box: Box) -> tuple[Pixels, Marks | None]:
        """Return pixels and which of them are valid; see `Reader.read_valid`."""
        pixels = self.read(box)
        valid = by_value(pixels, self.info.nodata)
        if self._validity is None:
            return pixels, valid
        marks = self._read(self._validity, box)
        return pixels, both(valid, np.asarray(marks != 0))

    def opacity(self, box: Box) -> Opacity | None:
        """Return what lies beside the pixels, (C, h, w); see `Reader.opacity`."""
        return None if self._validity is None else self._read(self._validity, box)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _plane(self, array: zarr.Array[Any], box: Box, band: int | None) -> Pixels:
        """Return one band of the frame, (h, w)."""
        rows, columns = box.slices()
        chosen = {
            "y": rows,
            "x": columns,
            "c": band,
            **self._frame,
        }
        index = tuple(chosen[axis] for axis in self._axes)
        try:
            window = np.asarray(array[index])
        except Exception as error:  # of codecs and stores, which all mean: it cannot be read
            raise DamagedError(
                f"{self.info.path}: {box} of {array.path or 'the array'} cannot be decoded: "
                f"{redact(one_line(error))}; get it again"
            ) from error
        rows_first = self._axes.index("y") < self._axes.index("x")
        upright = window if rows_first else window.T
        native = upright.dtype.newbyteorder("=")
        return np.array(upright, native, order="C")


def inspect_any(
    path: str,
    selection: Selection = EVERYTHING,
    *,
    level: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> ImageInfo:
    """Describe the image of a zarr group or array; raises FormatError for what is not one."""
    return AnyZarrReader(path, selection, level=level, max_pixels=max_pixels).info


def _describe(
    path: str,
    image: ImageArray,
    selection: Selection,
    max_pixels: int,
) -> tuple[ImageInfo, tuple[int, ...], dict[str, int]]:
    """Return (description, bands, index on every further axis)."""
    lengths = image.lengths
    if min(lengths.values()) < 1:
        raise FormatError(
            f"{path}: a zarr array of shape {image.array.shape}; an image needs at least one pixel"
        )
    height = lengths["y"]
    width = lengths["x"]
    check_size(path, height, width, max_pixels)
    stored = _stored_dtype(path, image.array)
    further: dict[str, int] = {axis: lengths[axis] for axis in ("z", "t") if axis in image.axes}
    frame = choose_frames(path, selection, further)
    bands = choose_bands(path, selection.channel, lengths.get("c", 1), None)
    _check_chunk(path, image)

    dtype = DELIVERED[stored]
    lazy = _is_lazy(image.chunk)
    layout = _layout(image)
    grain = (image.chunk["y"], image.chunk["x"])
    block = cut(height, width, len(bands) * ITEMSIZE[dtype], grain)
    staging_bytes = 2 * block.nbytes + _AT_ONCE * image.chunk_bytes
    info = ImageInfo(
        path=path,
        format="Zarr" if image.multiscale is None else "OME-Zarr",
        height=height,
        width=width,
        channels=len(bands),
        dtype=dtype,
        bits=8 * image.array.dtype.itemsize,
        lazy=lazy,
        why_staged="" if lazy else f"windows of {layout} are slow to read",
        layout=layout,
        grain=grain,
        staging_bytes=0 if lazy else staging_bytes,
        limits=_limits(image.array),
        stated=_stated(image, bands),
        stated_by="omero windows",
        names=_names(image, bands),
        colour=len(bands) == 3 and _names(image, bands) in UNNAMED,
        pixel_size=image.multiscale.pixel_size if image.multiscale else None,
        nodata=_nodata(image),
        mask=image.published.mask,
        valid_by="published validity" if image.published.mask else "",
        levels=image.levels,
        axes=tuple((axis, lengths[axis]) for axis in frame if lengths[axis] > 1),
        notes=_notes(image.array, stored),
    )
    return info, bands, frame


def _stored_dtype(path: str, array: zarr.Array[Any]) -> str:
    """Return the name of the sample type; raises FormatError for one that is not delivered."""
    plain = array.dtype.kind in "biufc"
    stored = str(np.dtype(array.dtype).newbyteorder("=")) if plain else str(array.dtype)
    if stored not in DELIVERED:
        raise FormatError(
            f"{path}: found {stored} samples; supported: {', '.join(DELIVERED)}; "
            "convert the array to one of them"
        )
    return stored


def _check_chunk(path: str, image: ImageArray) -> None:
    if image.chunk_bytes > MAX_SEGMENT_BYTES:
        raise FormatError(
            f"{path}: chunks {tuple(image.array.chunks)} of {image.chunk_bytes} bytes, above the "
            f"limit of {MAX_SEGMENT_BYTES} for one that is decoded whole; "
            "rewrite the array in smaller chunks"
        )


def _is_lazy(chunk: dict[str, int]) -> bool:
    """Tell whether a window decodes little that it does not need."""
    planes = math.prod(length for axis, length in chunk.items() if axis not in "yx")
    return max(chunk["y"], chunk["x"]) <= _LAZY_SIDE and planes <= _LAZY_PLANES


def _layout(image: ImageArray) -> str:
    chunks = "x".join(map(str, image.array.chunks))
    zarr_format = image.array.metadata.zarr_format
    return f"zarr {zarr_format} chunks {chunks} ({', '.join(image.axes)})"


def _limits(array: zarr.Array[Any]) -> tuple[float, float] | None:
    if array.dtype.kind != "u":
        return None
    return 0.0, float(np.iinfo(array.dtype).max)


def _names(image: ImageArray, bands: tuple[int, ...]) -> tuple[str, ...]:
    """Return the labels of the chosen bands, none where the metadata labels another number."""
    stored = image.lengths.get("c", 1)
    if image.multiscale is None or len(image.multiscale.names) != stored:
        return ()
    return tuple(image.multiscale.names[band] for band in bands)


def _stated(image: ImageArray, bands: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    """Return the display windows of the chosen bands."""
    stored = image.lengths.get("c", 1)
    if image.multiscale is None or len(image.multiscale.windows) != stored:
        return ()
    return tuple(image.multiscale.windows[band] for band in bands)


def _notes(array: zarr.Array[Any], stored: str) -> tuple[str, ...]:
    absent = f"absent chunks are read as the fill value {array.fill_value}, as Zarr defines"
    if stored not in WIDENED:
        return (absent,)
    return absent, f"{stored} is widened to {WIDENED[stored]}, value by value"


def _nodata(image: ImageArray) -> float | None:
    """Return the value of samples without data, where the image or its array names it.

    CF conventions: `_FillValue`, else `missing_value`. xarray writes the former in base64 (zarr 3),
    or as the fill value of an array whose dimensions it names (zarr 2), where 0 is anybody's
    default.
    """
    if image.published.nodata is not None:
        return image.published.nodata
    array = image.array
    attributes = array.attrs
    value = attributes.get("_FillValue", attributes.get("missing_value"))
    if value is None and "_ARRAY_DIMENSIONS" in attributes:
        value = array.fill_value or None
    if isinstance(value, str):
        value = _decoded(value, array.dtype)
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return float(value) if is_number else None


def _decoded(text: str, dtype: np.dtype[Any]) -> float | None:
    """Return the number that a text stands for: 'NaN', '1e20', or xarray's bytes in base64."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    # xarray keeps floats as doubles and others in the array's own type.
    kind = np.dtype("<f8") if dtype.kind == "f" and len(data) == 8 else dtype.newbyteorder("<")
    return float(np.frombuffer(data, kind)[0]) if len(data) == kind.itemsize else None
