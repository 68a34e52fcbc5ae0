"""PNG and JPEG pixels: formats that can only be decoded whole."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from storage import exif, jpeg, png
from storage.box import Box
from storage.errors import DamagedError, FormatError, human_bytes, one_line
from storage.files import mapped
from storage.image import ImageInfo, check_inside

if TYPE_CHECKING:
    from mmap import mmap

    from storage.image import Pixels


MAX_WHOLE_BYTES = 4 << 30
"""Default limit on pixels that are decoded whole, bytes: a 37,000 x 37,000 RGB photograph."""
MAX_PIXELS = 1 << 31
"""Default limit on the size that a PNG or JPEG header may declare, px: a larger one is a mistake or an attack."""


def inspect_whole(path: str, kind: str, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Describe a PNG or JPEG file (`kind`) from its header; the chunk structure is walked to its end.

    Raises FormatError for damaged, unsupported or too large files.
    """
    data = mapped(path)
    header = png.read_header(path, data) if kind == "PNG" else jpeg.read_header(path, data)
    height, width = header.height, header.width
    if height * width > max_pixels:
        raise FormatError(
            f"{path}: the header declares {height} x {width} px, above the limit of {max_pixels} px for a {kind}, "
            "which is decoded whole; convert it to a tiled TIFF: vips tiffsave in out.tif --tile"
        )
    if exif.swaps_sides(header.orientation):
        height, width = width, height
    bits = header.bits if isinstance(header, png.PngHeader) else 8
    return ImageInfo(
        path=path,
        format="PNG" if kind == "PNG" else "JPEG",
        height=height,
        width=width,
        channels=header.channels,
        dtype="uint8" if bits == 8 else "uint16",
        bits=bits,
        lazy=False,
        why_staged=f"a {kind} can only be decoded whole",
        layout="whole",
        staging_bytes=height * width * header.channels * (bits // 8),
        icc=header.icc,
        orientation=header.orientation,
    )


class WholeReader:
    """Read a PNG or JPEG; the first window decodes all of it, and it stays in memory until `close`."""

    def __init__(self, info: ImageInfo, *, max_bytes: int = MAX_WHOLE_BYTES) -> None:
        self.info = info
        self._max_bytes = max_bytes
        self._pixels: Pixels | None = None
        self._lock = threading.Lock()

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the stored dtype; see `Reader.read`."""
        check_inside(self.info, box)
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
            pixels = self._pixels
        return np.ascontiguousarray(pixels[box.slices()].transpose(2, 0, 1))

    def close(self) -> None:
        """Drop the decoded pixels."""
        self._pixels = None

    def _decode(self) -> Pixels:
        """Return the upright image, (H, W, C)."""
        info = self.info
        if info.nbytes > self._max_bytes:
            raise FormatError(
                f"{info.path}: {human_bytes(info.nbytes)} of pixels in a {info.format}, which is decoded whole; the "
                f"limit is {human_bytes(self._max_bytes)}; convert it to a tiled TIFF: vips tiffsave in out.tif --tile"
            )
        data = mapped(info.path)
        if info.format == "PNG":
            png.check(info.path, data)
        pixels = _decode_checked(info, data)
        return exif.upright(pixels.reshape(*pixels.shape[:2], -1), info.orientation)


def _decode_checked(info: ImageInfo, data: mmap) -> Pixels:
    """Return the stored rows and hold the decoder to the header: (H, W) or (H, W, C)."""
    stored = (info.width, info.height) if exif.swaps_sides(info.orientation) else (info.height, info.width)
    expected = stored if info.channels == 1 else (*stored, info.channels)
    try:
        decode = imagecodecs.png_decode if info.format == "PNG" else imagecodecs.jpeg8_decode
        pixels: Pixels = np.asarray(decode(data))
    except Exception as error:  # codecs raise their own types, which all mean that the data is damaged
        raise DamagedError(
            f"{info.path}: the {info.format} data is damaged: {one_line(error)}; get it again"
        ) from error
    if pixels.shape != expected or pixels.dtype != info.dtype:
        raise DamagedError(
            f"{info.path}: the header says {expected} {info.dtype}, the decoder found {pixels.shape} {pixels.dtype}; "
            "the file is damaged, get it again"
        )
    return pixels
