"""The tiles of a TIFF: cut from a published level, interleaved, differenced and compressed."""

from __future__ import annotations

import itertools
import threading
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

    from storage.zarr_format.published_image import PublishedImage

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
_JPEG_COLOURS: dict[str, Any] = {
    "colorspace": "RGB",
    "outcolorspace": "YCBCR",
    "subsampling": (2, 2),
}
# A tile that is being compressed, or is: its room, and what will be its stored bytes there.
_Waiting = tuple[bytearray, "Future[memoryview]"]
# Tiles that are being compressed, or are waiting to be written, at the same time.
_AHEAD = 8
# Room for a compressed tile, in its size: LZW makes noise larger by a half.
_ROOM = 2


class TileEncoder:
    """Make the stored bytes of tiles, in a pool.

    A tile goes its whole way in one thread, through memory in its cache. Memory: a tile for every
    thread, and two for each of eight whose bytes wait; used again and again.
    """

    def __init__(
        self,
        image: PublishedImage,
        pool: Executor,
        *,
        planar: bool,
        compression: str,
        quality: int = 0,
        alpha: PublishedImage | None = None,
    ) -> None:
        """Set up for an image.

        alpha: the validity of its samples, which becomes a last band of interleaved tiles.

        planar: tiles of one band, one band after the other; else of all bands, interleaved.
        compression: a name in `tiff_writer.COMPRESSIONS`; deflate, zstd and lzw store what differs
        from the sample before (TIFF 6.0, section 14), of floats the exponents first (Adobe's
        Technical Note 3). quality: of JPEG, 1 to 100.
        """
        self._image = image
        self._pool = pool
        self._planar = planar
        self._alpha = alpha
        depth = 1 if planar else image.channels + (alpha is not None)
        whole_numbers = np.dtype(image.dtype).kind in "iu"
        self._encode = _encoder(compression, quality, depth, whole_numbers)
        differences = compression in _ENCODERS and whole_numbers
        self._tile = _Tile(depth, image.dtype, differences)
        waiting = 0 if self._encode is None else min(_AHEAD, self.count(0))
        room = _ROOM * self._tile.pixels.nbytes
        self._free = deque(bytearray(room) for _ in range(waiting))

    def count(self, number: int) -> int:
        """Return the number of tiles of a level."""
        channels, height, width = self._image.levels[number].shape
        down = -(-height // TILE)
        across = -(-width // TILE)
        planes = channels if self._planar else 1
        return down * across * planes

    def tiles(self, number: int) -> Iterator[memoryview]:
        """Yield the tiles of a level, row by row, zeros beyond the far edges.

        Each holds until the next is asked for.
        """
        if self._encode is None:
            for box, channel in self._places(number):
                pixels = self._filled(number, box, channel)
                yield pixels.data.cast("B")
            return

        waiting: deque[_Waiting] = deque()
        for box, channel in self._places(number):
            if not self._free:
                yield self._first(waiting)
            room = self._free.popleft()
            stored = self._pool.submit(self._encoded, self._encode, room, number, box, channel)
            waiting.append((room, stored))
        while waiting:
            yield self._first(waiting)

    def _first(self, waiting: deque[_Waiting]) -> memoryview:
        """Return the stored bytes that wait longest.

        Their room is used again when more is asked for.
        """
        room, stored = waiting.popleft()
        self._free.append(room)
        return stored.result()

    def _places(self, number: int) -> Iterator[tuple[Box, int | None]]:
        """Yield (window, band or all) of the tiles of a level; planes one after the other."""
        _, height, width = self._image.levels[number].shape
        planes = range(self._image.channels) if self._planar else (None,)
        for channel in planes:
            for y0 in range(0, height, TILE):
                for x0 in range(0, width, TILE):
                    tile = Box(y0, x0, y0 + TILE, x0 + TILE)
                    yield tile.clip(height, width), channel

    def _encoded(
        self,
        encode: Encode,
        room: bytearray,
        number: int,
        box: Box,
        channel: int | None,
    ) -> Any:
        pixels = self._filled(number, box, channel)
        return encode(pixels, out=room)

    def _filled(
        self,
        number: int,
        box: Box,
        channel: int | None,
    ) -> Pixels:
        bands = self._image.bands(number, box, channel)
        if self._alpha is not None:
            bands = itertools.chain(bands, [opaque(self._alpha, number, box, self._image.dtype)])
        return self._tile.fill(box, bands)


def all_valid(validity: PublishedImage, number: int, box: Box) -> NDArray[np.bool_]:
    """Return which pixels of a window of a level are valid in every band, (h, w)."""
    valid = validity.read(number, box) != 0
    return np.asarray(valid.all(axis=0))


def opaque(validity: PublishedImage, number: int, box: Box, dtype: str) -> Pixels:
    """Return a window of an alpha channel, (h, w) of 0 to the largest value of a whole dtype."""
    return alpha_samples(validity.read(number, box), dtype)


def alpha_samples(opacity: NDArray[np.uint8], dtype: str) -> Pixels:
    """Return the alpha of pixels, (h, w) in a whole dtype, of the opacity (C, h, w) of samples."""
    least = opacity.min(axis=0)
    factor = np.iinfo(dtype).max // np.iinfo(np.uint8).max
    return np.asarray(least.astype(dtype) * np.dtype(dtype).type(factor))


class MaskEncoder:
    """Make the stored bytes of a mask's tiles: a bit a pixel, 1 where every band is valid."""

    def __init__(self, validity: PublishedImage, levels: int) -> None:
        """levels: how many, from the finest, get a mask."""
        self.levels = levels
        self._validity = validity

    def count(self, number: int) -> int:
        """Return the number of tiles of a level."""
        _, height, width = self._validity.levels[number].shape
        return -(-height // TILE) * -(-width // TILE)

    def tiles(self, number: int) -> Iterator[bytes]:
        """Yield the tiles of a level, row by row, invalid beyond the far edges."""
        _, height, width = self._validity.levels[number].shape
        for y0 in range(0, height, TILE):
            for x0 in range(0, width, TILE):
                box = Box(y0, x0, y0 + TILE, x0 + TILE).clip(height, width)
                tile = np.zeros((TILE, TILE), bool)
                tile[: box.height, : box.width] = all_valid(self._validity, number, box)
                yield bytes(
                    imagecodecs.deflate_encode(np.packbits(tile, axis=1).tobytes(), level=1)
                )


def _encoder(
    compression: str,
    quality: int,
    depth: int,
    whole_numbers: bool,
) -> Encode | None:
    """Return what compresses a tile; None where its pixels are stored as they are."""
    if compression == "jpeg":
        colours = _JPEG_COLOURS if depth == 3 else {}
        return partial(imagecodecs.jpeg_encode, level=quality, **colours)
    if compression not in _ENCODERS:
        return None
    encode = _ENCODERS[compression]
    return encode if whole_numbers else partial(_encode_floats, encode=encode)


class _Tile(threading.local):
    """Memory for a tile, little endian, of every thread: fresh memory costs as much as compressing.

    Bands are filled in one by one: several times faster than a transposed copy.
    """

    def __init__(
        self,
        depth: int,
        dtype: str,
        differences: bool,
    ) -> None:
        little_endian = np.dtype(dtype).newbyteorder("<")
        self.pixels = np.zeros((TILE, TILE, depth), little_endian)
        self._band = np.empty(TILE * TILE, dtype) if differences else None

    def fill(self, box: Box, bands: Iterator[Pixels]) -> Pixels:
        """Return the tile of the bands (h, w) of a box: (512, 512), or (512, 512, C) of several."""
        height, width = box.shape
        if (height, width) != (TILE, TILE):
            self.pixels[...] = 0
        for channel, band in enumerate(bands):
            stored = band if self._band is None else self._differences(band, self._band)
            self.pixels[:height, :width, channel] = stored
        depth = self.pixels.shape[2]
        return self.pixels[:, :, 0] if depth == 1 else self.pixels

    @staticmethod
    def _differences(band: Pixels, room: Pixels) -> Pixels:
        """Return what differs from the sample before; what overflows wraps, and back again."""
        samples = band.reshape(-1)
        out = room[: band.size]
        np.subtract(samples[1:], samples[:-1], out=out[1:])  # in one run over all rows
        differences = out.reshape(band.shape)
        differences[:, 0] = band[:, 0]
        return differences


def _encode_floats(
    tile: Pixels,
    encode: Encode,
    out: bytearray,
) -> Any:
    exponents_first = imagecodecs.floatpred_encode(tile, axis=1)
    return encode(exponents_first, out=out)
