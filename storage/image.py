"""What is known about an image before its pixels are read, and the protocol of readers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from storage.box import Box
from storage.errors import FormatError, human_bytes
from storage.limits import MAX_WHOLE_BYTES

if TYPE_CHECKING:  # numpy is loaded by whoever reads pixels, not by whoever looks at a header
    import numpy as np
    from numpy.typing import NDArray

    from storage.coding import Coding
    from storage.geo import Georeference

    Pixels: TypeAlias = NDArray[Any]
    Marks: TypeAlias = NDArray[np.bool_]
    Opacity: TypeAlias = NDArray[np.uint8]

UNNAMED = ((), ("Red", "Green", "Blue"))
"""Names of three bands that are one picture, where the format does not say."""
Dtype = Literal["uint8", "int16", "uint16", "float32"]
Format = Literal["PNG", "JPEG", "JPEG 2000", "PNM", "TIFF", "OME-Zarr", "Zarr", "slide", "staged"]
MaskForm = Literal["", "mask", "alpha", "associated"]
"""How an image says beside its samples which are none: masks, or alpha, with which colours may be
multiplied (associated).
"""
ITEMSIZE: dict[str, int] = {
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float32": 4,
}
"""Bytes per sample of every dtype that is delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which part of a file with further axes is the image; None: not chosen."""

    channel: tuple[int, ...] | None = None
    """Bands in this order, counted from 0.

    An alpha channel can be named too and is then a plain band.
    """
    z: int | None = None
    t: int | None = None
    """Frame, counted from 0; also the page of a file whose pages have no stated axis."""

    def as_dict(self) -> dict[str, Any]:
        """Return what was chosen as JSON values."""
        return {
            "channel": list(self.channel) if self.channel is not None else None,
            "z": self.z,
            "t": self.t,
        }


EVERYTHING = Selection()
"""Nothing chosen: refused by every file that holds several frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """Describe an image as a reader will deliver it: upright, bands and frame chosen."""

    path: str
    """The file or folder, as it was given, without credentials."""
    format: Format
    """The format found in the content; the file's name plays no part."""
    height: int
    """Rows, px."""
    width: int
    """Columns, px."""
    channels: int
    """1 (grey), 3 (red, green, blue) or another number of plain bands."""
    dtype: Dtype
    """Sample type that is delivered."""
    bits: int
    """Bits per sample in the file; may be fewer than the dtype has."""
    lazy: bool
    """Whether windows can be read cheaply from the file; otherwise it is staged into zarr once."""
    why_staged: str
    """The reason for staging, for people; empty when lazy."""
    layout: str
    """How the pixels are stored, for people: 'tiles 512x512, deflate'."""
    grain: tuple[int, int] | None = None
    """(y, x) of the tiles or chunks that are decoded whole, px.

    None where any window costs only its own pixels.
    """
    staging_bytes: int = 0
    """Peak memory that staging needs for pixels, bytes; 0 when lazy."""
    limits: tuple[float, float] | None = None
    """Black and white where the format states them: the range of unsigned integers of `bits`."""
    stated: tuple[tuple[float, float], ...] = ()
    """Black and white of each band where the file's metadata have them, which samples may
    contradict; empty where they do not.
    """
    stated_by: str = ""
    """What states them, for people."""
    names: tuple[str, ...] = ()
    """Names of the bands; empty when the file gives none."""
    nodata: float | None = None
    """Stored value of pixels without data, possibly NaN; None when there is none."""
    mask: MaskForm = ""
    """How the file says beside its samples which of them are none; "" where it does not."""
    valid_by: str = ""
    """What the file has for that, in words: 'mask page'; empty where it has nothing."""
    beside: str = ""
    """Another file that `valid_by` lies in; empty where there is none."""
    alpha: Literal["", "associated", "unassociated"] = ""
    """The kind of an alpha channel in the file, which is left out unless it is chosen as a band."""
    icc: bytes | None = field(default=None, repr=False)
    """The embedded colour profile, or None."""
    pixel_size: tuple[float, float] | None = None
    """Physical size of a pixel as (y, x) in micrometres, or None when the file does not say."""
    geo: Georeference | None = None
    """Where the image lies on a map, or None."""
    orientation: int = 1
    """EXIF orientation 1..8 of the stored rows, already undone in height and width."""
    levels: tuple[tuple[int, int], ...] = ()
    """Sizes (H, W) of the file's own pyramid, finest first; empty without one.

    Only the finest is restored.
    """
    axes: tuple[tuple[str, int], ...] = ()
    """Further axes of the file with their lengths, ('t', 5), of which one frame was chosen."""
    colour: bool = False
    """Whether the three bands are red, green and blue of one picture."""
    coding: Coding | None = None
    """How the file's pixels were coded with loss, or None where they are exact."""
    notes: tuple[str, ...] = ()
    """What was converted or left out on purpose, one sentence each."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def nbytes(self) -> int:
        """Return the size of all delivered pixels, bytes."""
        return self.channels * self.height * self.width * ITEMSIZE[self.dtype]

    @property
    def box(self) -> Box:
        """Return the box of the whole image."""
        return Box(0, 0, self.height, self.width)


class Reader(Protocol):
    """Deliver pixels by windows. Safe to call from several threads; open one per process."""

    info: ImageInfo

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the delivered dtype, native byte order, a fresh array.

        Raises ValueError for a box outside the image, DamagedError for pixels that cannot be
        decoded.
        """
        ...

    def read_valid(self, box: Box) -> tuple[Pixels, Marks | None]:
        """Return what `read` does, and which samples are valid: (C, h, w), or (1, h, w) for all
        bands.

        None where all are. A sample is none where the file says so, by whatever means it has:
        nodata, NaN, a mask, alpha, or no bytes at all.
        """
        ...

    def opacity(self, box: Box) -> Opacity | None:
        """Return how opaque the pixels of a window are, (C, h, w) or (1, h, w), 255 wholly.

        None where all valid ones are. What is not valid by another rule need not be 0 here.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def check_inside(info: ImageInfo, box: Box) -> None:
    """Raise ValueError unless `box` lies inside the image and holds at least one pixel."""
    if box.empty or not info.box.contains(box):
        size = f"{info.height} x {info.width} px (H x W)"
        raise ValueError(f"{info.path}: {box} is not a window of an image of {size}")


def check_size(
    path: str,
    height: int,
    width: int,
    limit: int,
) -> None:
    """Raise FormatError when a header declares more pixels than `limit`."""
    if height * width > limit:
        raise FormatError(
            f"{path}: the header declares {height} x {width} px, above the limit of {limit} px; "
            "raise it with --max-pixels if the size is right"
        )


def check_memory(
    info: ImageInfo,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
) -> None:
    """Raise FormatError when staging an image takes more memory than is allowed.

    max_bytes: default `storage.limits.MAX_WHOLE_BYTES`, and no limit where `max_pixels` allows the
    image.
    """
    if max_bytes is None and max_pixels is not None:
        return
    limit = max_bytes or MAX_WHOLE_BYTES
    if info.staging_bytes > limit:
        raise FormatError(
            f"{info.path}: staging needs {human_bytes(info.staging_bytes)} of memory "
            f"({info.format}, {info.layout}), above the limit of {human_bytes(limit)}; "
            "convert it to a tiled TIFF (vips tiffsave in out.tif --tile), "
            f"or allow it with --max-pixels {info.height * info.width}"
        )


def choose_bands(
    path: str,
    chosen: tuple[int, ...] | None,
    count: int,
    alpha: int | None,
) -> tuple[int, ...]:
    """Return the stored bands to deliver: the chosen ones, or all but the alpha channel.

    alpha: its index. Raises FormatError for a band that the file does not have, or one that is
    named twice.
    """
    if chosen is None:
        return tuple(band for band in range(count) if band != alpha or count == 1)
    for band in chosen:
        if not 0 <= band < count:
            raise FormatError(
                f"{path}: no channel {band}; the file has channels 0 to {count - 1}, see --channel"
            )
    twice = len(set(chosen)) < len(chosen)
    if not chosen or twice:
        listed = ",".join(map(str, chosen))
        raise FormatError(f"{path}: --channel {listed} names a channel twice or none")
    return chosen


def choose_frames(
    path: str,
    selection: Selection,
    lengths: dict[str, int],
    what: str = "",
) -> dict[str, int]:
    """Return the index on every further axis, z and t.

    what: the frames in words, where the axis says too little of them. Raises FormatError naming all
    options where one is not chosen.
    """
    chosen = {"z": selection.z, "t": selection.t}
    for axis, index in chosen.items():
        length = lengths.get(axis, 1)
        if index is not None and not 0 <= index < length:
            raise FormatError(f"{path}: no --{axis} {index}; the file has {axis} 0 to {length - 1}")

    open_axes = [
        axis for axis, index in chosen.items() if index is None and lengths.get(axis, 1) > 1
    ]
    if open_axes:
        frames = [f"{lengths[axis]} frames along {axis}" for axis in open_axes]
        held = what or " and ".join(frames)
        options = [f"--{axis} 0 to --{axis} {lengths[axis] - 1}" for axis in open_axes]
        raise FormatError(f"{path}: holds {held}; choose one with {' and '.join(options)}")
    return {axis: chosen[axis] or 0 for axis in lengths}
