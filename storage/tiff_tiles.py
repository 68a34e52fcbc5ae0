"""The tiles of a TIFF: cut from a published level, interleaved, differenced and compressed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from storage.box import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.published import PublishedImage

    Pixels = NDArray[Any]
    Encode = Callable[..., Any]  # (pixels, out: bytearray) -> memoryview of what it wrote there

TILE = 512
"""Side of a tile, px: that of a published chunk, so that a tile needs no other chunk."""
# Levels of compression: higher ones gain a few percent and cost several times the CPU.
_ENCODERS: dict[str, Encode] = {
    "deflate": partial(imagecodecs.deflate_encode, level=1),
    "zstd": partial(imagecodecs.zstd_encode, level=1),
    "lzw": imagecodecs.lzw_encode,
}
_JPEG_COLOURS: dict[str, Any] = {"colorspace": "RGB", "outcolorspace": "YCBCR", "subsampling": (2, 2)}
# Tiles that are being compressed, or are waiting to be written, at the same time.
_AHEAD = 8
# Room for a compressed tile, in its size: LZW makes noise larger by a half.
_ROOM = 2


def encoded(
    image: PublishedImage, number: int, *, planar: bool, compression: str, quality: int, pool: Executor
) -> Iterator[memoryview]:
    """Yield the stored bytes of the tiles of a level, row by row, zeros beyond the far edges.

    planar: tiles of one band, one band after the other; else of all bands, interleaved. compression: a name in
    `tiff_writer.COMPRESSIONS`; deflate, zstd and lzw store what differs from the sample before (TIFF 6.0, section 14), of
    floats the exponents first (Adobe's Technical Note 3). What is yielded holds until the next one is asked for.
    Memory: three times eight tiles, which are used again and again.
    """
    whole = np.dtype(image.dtype).kind in "iu"
    parts = _parts(image, number, range(image.channels) if planar else (None,))
    shape = (TILE, TILE, 1 if planar else image.channels)
    differences = compression in _ENCODERS and whole
    if compression == "none":
        return _plain(parts, _Slot(shape, image.dtype))
    encode: Encode
    if compression == "jpeg":
        encode = partial(imagecodecs.jpeg_encode, level=quality, **(_JPEG_COLOURS if shape[2] == 3 else {}))
    elif whole:
        encode = _ENCODERS[compression]
    else:
        encode = partial(_floats, encode=_ENCODERS[compression])
    return _ahead(encode, parts, [_Slot(shape, image.dtype) for _ in range(_AHEAD)], pool, differences=differences)


def count(image: PublishedImage, number: int, *, planar: bool) -> int:
    """Return the number of tiles of a level."""
    channels, height, width = image.levels[number].shape
    return -(-height // TILE) * -(-width // TILE) * (channels if planar else 1)


class _Slot:
    """Memory for one tile, little endian, and for its stored bytes: fresh memory costs as much as compressing."""

    def __init__(self, shape: tuple[int, int, int], dtype: str) -> None:
        self._whole = np.zeros(shape, np.dtype(dtype).newbyteorder("<"))
        self.tile = self._whole[:, :, 0] if shape[2] == 1 else self._whole
        self.room = bytearray(_ROOM * self._whole.nbytes)

    def fill(self, pixels: Pixels, *, differences: bool) -> Pixels:
        """Return the tile of (C, h, w) pixels: (512, 512), or (512, 512, C) of several bands."""
        _, height, width = pixels.shape
        if (height, width) != (TILE, TILE):
            self._whole[...] = 0
        for channel, band in enumerate(pixels):  # band by band: several times faster than a transposed copy
            if differences:  # in the same pass; what overflows wraps, and back again
                self._whole[:height, 0, channel] = band[:, 0]
                np.subtract(band[:, 1:], band[:, :-1], out=self._whole[:height, 1:width, channel])
            else:
                self._whole[:height, :width, channel] = band
        return self.tile


def _parts(image: PublishedImage, number: int, channels: Iterable[int | None]) -> Iterator[Pixels]:
    """Yield (C, h, w) under the tiles of a level, row by row; of the given bands, one after the other."""
    _, height, width = image.levels[number].shape
    for channel in channels:
        for y0 in range(0, height, TILE):
            for x0 in range(0, width, TILE):
                yield image.read(number, Box(y0, x0, min(y0 + TILE, height), min(x0 + TILE, width)), channel)


def _plain(parts: Iterator[Pixels], slot: _Slot) -> Iterator[memoryview]:
    for pixels in parts:
        yield slot.fill(pixels, differences=False).data.cast("B")


def _floats(tile: Pixels, encode: Encode, out: bytearray) -> Any:
    return encode(imagecodecs.floatpred_encode(tile, axis=1), out=out)


def _ahead(
    encode: Encode, parts: Iterator[Pixels], slots: list[_Slot], pool: Executor, *, differences: bool
) -> Iterator[memoryview]:
    """Yield what the pool makes of the tiles, in order, as many ahead as there are slots."""
    free, waiting = deque(slots), deque[tuple[_Slot, Future[memoryview]]]()
    for pixels in parts:
        if not free:
            slot, stored = waiting.popleft()
            yield stored.result()
            free.append(slot)
        slot = free.popleft()
        waiting.append((slot, pool.submit(encode, slot.fill(pixels, differences=differences), out=slot.room)))
    for _, stored in waiting:
        yield stored.result()
