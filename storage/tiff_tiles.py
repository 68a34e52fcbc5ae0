"""The tiles of a TIFF: cut from a published level, interleaved, differenced and compressed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
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


class TileEncoder:
    """Make the stored bytes of tiles. Memory: three times eight tiles, which are used again and again."""

    def __init__(
        self, image: PublishedImage, pool: Executor, *, planar: bool, compression: str, quality: int = 0
    ) -> None:
        """Set up for an image.

        planar: tiles of one band, one band after the other; else of all bands, interleaved. compression: a name in
        `tiff_writer.COMPRESSIONS`; deflate, zstd and lzw store what differs from the sample before (TIFF 6.0, section
        14), of floats the exponents first (Adobe's Technical Note 3). quality: of JPEG, 1 to 100.
        """
        self._image, self._pool, self._planar = image, pool, planar
        depth = 1 if planar else image.channels
        whole = np.dtype(image.dtype).kind in "iu"
        self._differences = compression in _ENCODERS and whole
        self._encode: Encode | None = None
        if compression == "jpeg":
            colours = _JPEG_COLOURS if depth == 3 else {}
            self._encode = partial(imagecodecs.jpeg_encode, level=quality, **colours)
        elif compression in _ENCODERS:
            self._encode = _ENCODERS[compression] if whole else partial(_floats, encode=_ENCODERS[compression])
        waiting = 1 if compression == "none" else min(_AHEAD, self.count(0))
        self._free = deque(_Slot((TILE, TILE, depth), image.dtype) for _ in range(waiting))

    def count(self, number: int) -> int:
        """Return the number of tiles of a level."""
        channels, height, width = self._image.levels[number].shape
        return -(-height // TILE) * -(-width // TILE) * (channels if self._planar else 1)

    def tiles(self, number: int) -> Iterator[memoryview]:
        """Yield the tiles of a level, row by row, zeros beyond the far edges; each holds until the next is asked for."""
        waiting: deque[tuple[_Slot, Future[memoryview]]] = deque()
        for pixels in self._parts(number):
            if not self._free:
                yield self._first(waiting)
            tile = self._free[0].fill(pixels, differences=self._differences)
            if self._encode is None:
                yield tile.data.cast("B")
            else:
                slot = self._free.popleft()
                waiting.append((slot, self._pool.submit(self._encode, tile, out=slot.room)))
        while waiting:
            yield self._first(waiting)

    def _first(self, waiting: deque[tuple[_Slot, Future[memoryview]]]) -> memoryview:
        """Return the stored bytes that wait longest; their slot is filled again when more is asked for."""
        slot, stored = waiting.popleft()
        self._free.append(slot)
        return stored.result()

    def _parts(self, number: int) -> Iterator[Pixels]:
        """Yield (C, h, w) under the tiles of a level; of bands that are planes one after the other."""
        _, height, width = self._image.levels[number].shape
        for channel in range(self._image.channels) if self._planar else (None,):
            for y0 in range(0, height, TILE):
                for x0 in range(0, width, TILE):
                    box = Box(y0, x0, min(y0 + TILE, height), min(x0 + TILE, width))
                    yield self._image.read(number, box, channel)


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


def _floats(tile: Pixels, encode: Encode, out: bytearray) -> Any:
    return encode(imagecodecs.floatpred_encode(tile, axis=1), out=out)
