"""JPEG and JPEG 2000 by GDAL's decoders (extra `geo`), for images too large to be decoded whole.

A JPEG comes row by row from the top, a JPEG 2000 by areas of about a megapixel. JPEG decoders
differ: where colours are stored at half the resolution (4:2:0), GDAL's pixels are not exactly those
of the decoder for small images.
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.box import Box
from storage.byte_source import ByteSource
from storage.errors import DamagedError, FormatError, one_line

if TYPE_CHECKING:
    from storage.image import Pixels

AREA = 1024
"""Side of what is decoded of a JPEG 2000 at a time, px."""
CACHE = 64 << 20
"""Of memory for GDAL's block cache, bytes: the default is 5 % of the machine's."""
_DRIVERS = {"JPEG": "JPEG", "JPEG 2000": "JP2OpenJPEG"}
# Nothing beside the file is looked for, and nothing that it names is opened.
_OPTIONS = {
    "GDAL_CACHEMAX": CACHE,
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}


def available() -> bool:
    """Tell whether the extra `geo` is installed."""
    return importlib.util.find_spec("rasterio") is not None


class GdalDecoder:
    """Read windows of a JPEG or JPEG 2000 in bounded memory.

    Reading a JPEG upwards starts again at the top.
    """

    def __init__(
        self,
        path: str,
        kind: str,
        shape: tuple[int, int, int],
        dtype: str,
    ) -> None:
        """Open nothing yet.

        path: a file or URL. shape: (H, W, S) as the header says, to which the decoder is held.
        """
        self._path = path
        self._kind = kind
        self._shape = shape
        self._dtype = dtype
        self._lock = threading.Lock()
        self._source: ByteSource | None = None
        self._dataset: Any = None

    def read(self, box: Box, samples: tuple[int, ...]) -> Pixels:
        """Return (samples, h, w); see `Decoder.read`."""
        import rasterio
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        # GDAL reads the size of its cache when it first needs it.
        with self._lock, rasterio.Env(**_OPTIONS):
            try:
                if self._dataset is None:
                    self._open()
                window = Window(box.x0, box.y0, box.width, box.height)
                bands = [sample + 1 for sample in samples]
                return np.asarray(self._dataset.read(bands, window=window))
            except RasterioError as error:
                why = one_line(error.__cause__ or error)
                raise DamagedError(
                    f"{self._path}: the {self._kind} data is damaged: {why}; get it again"
                ) from error

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            if self._dataset is not None:
                self._dataset.close()
            if self._source is not None:
                self._source.close()
            self._dataset = self._source = None

    def _open(self) -> None:
        import rasterio

        source = self._source = ByteSource(self._path)
        name = f"image{PurePath(source.name).suffix}"

        def opened(asked: str, mode: str = "rb") -> Any:
            if asked != name:
                raise FileNotFoundError(asked)
            return source.opened()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            self._dataset = rasterio.open(name, driver=_DRIVERS[self._kind], opener=opened)
        shape = (self._dataset.height, self._dataset.width, self._dataset.count)
        if shape != self._shape or set(self._dataset.dtypes) != {self._dtype}:
            raise FormatError(
                f"{source.name}: the header says {self._shape} of {self._dtype}, GDAL finds "
                f"{shape} of {self._dataset.dtypes[0]}; "
                "convert it to a tiled TIFF: vips tiffsave in out.tif --tile"
            )
