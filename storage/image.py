"""What is known about an image before its pixels are read, and the protocol of everything that reads pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from storage.box import Box

if TYPE_CHECKING:  # numpy is loaded by whoever reads pixels, not by whoever looks at a header
    import numpy as np
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[np.unsignedinteger[Any]]

Dtype = Literal["uint8", "uint16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """Describe an image as a reader will deliver it (EXIF orientation applied)."""

    path: str
    """The file or folder, as it was given."""
    format: Literal["PNG", "JPEG", "TIFF", "OME-Zarr", "staged"]
    """The format found in the content; the file's name plays no part."""
    height: int
    """Rows, px."""
    width: int
    """Columns, px."""
    channels: int
    """1 (grey), 3 (red, green, blue) or another number of plain bands (TIFF, OME-Zarr)."""
    dtype: Dtype
    """Stored sample type; its full range is black to white."""
    bits: int
    """Bits per sample, 8 or 16."""
    lazy: bool
    """Whether windows can be read cheaply from the file itself; otherwise it is staged into zarr once."""
    why_staged: str
    """The reason for staging, for people; empty when lazy."""
    layout: str
    """How the pixels are stored, for people: 'tiles 512x512, deflate'."""
    staging_bytes: int = 0
    """Peak memory that staging needs for pixels, bytes; 0 when lazy."""
    icc: bytes | None = field(default=None, repr=False)
    """The embedded colour profile, or None."""
    pixel_size: tuple[float, float] | None = None
    """Physical size of a pixel as (y, x) in micrometres, or None when the file does not say."""
    orientation: int = 1
    """EXIF orientation 1..8 of the stored rows, already undone in height and width."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def nbytes(self) -> int:
        """Return the size of all decoded pixels, bytes."""
        return self.channels * self.height * self.width * (self.bits // 8)

    @property
    def box(self) -> Box:
        """Return the box of the whole image."""
        return Box(0, 0, self.height, self.width)


class Reader(Protocol):
    """Deliver pixels by windows. Safe to call from several threads; open one per process."""

    info: ImageInfo

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the stored dtype, native byte order, a fresh array.

        Raises ValueError for a box outside the image, DamagedError for pixels that cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def check_inside(info: ImageInfo, box: Box) -> None:
    """Raise ValueError unless `box` lies inside the image and holds at least one pixel."""
    if box.empty or not info.box.contains(box):
        raise ValueError(f"{info.path}: {box} is not a window of an image of {info.height} x {info.width} px (H x W)")
