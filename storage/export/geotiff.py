"""GeoTIFF tags, as GDAL writes them: for these the extra `geo` (rasterio) is needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tifffile

from storage.errors import FormatError, one_line
from storage.image_metadata import ImageMetadata

Tag = tuple[int, int, int, Any, bool]
"""A tag for tifffile's extratags: code, type, count, value, whether only the first page carries it.
"""

# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams,
# GeoAsciiParams, GDAL metadata (band names) and GDAL nodata.
_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
# Of memory for GDAL's block cache, bytes: the default is 5 % of the machine's.
_CACHE = 128 << 20


def tags(metadata: ImageMetadata, *, channels: int, dtype: str) -> list[Tag]:
    """Return the tags that carry georeference, nodata and band names of an image, as GDAL writes
    them.

    They come from an image of one pixel in memory, so that GDAL decides how a coordinate system is
    put into GeoKeys and where a tie point lies when pixels are points. Without georeference only
    nodata, which needs no GDAL. Raises FormatError when the extra `geo` is not installed, or GDAL
    does not know the coordinate system.
    """
    if metadata.geo is None:
        return (
            [] if metadata.nodata is None else [(42113, 2, 0, nodata_text(metadata.nodata), True)]
        )
    rasterio = _rasterio()
    from rasterio.io import MemoryFile

    profile = {
        "driver": "GTiff",
        "height": 1,
        "width": 1,
        "count": channels,
        "dtype": dtype,
        "interleave": "pixel",
    }
    with _quiet(), rasterio.Env(GDAL_CACHEMAX=_CACHE), MemoryFile() as memory:
        try:
            crs = rasterio.crs.CRS.from_wkt(metadata.geo.crs) if metadata.geo.crs else None
            with memory.open(
                **profile,
                crs=crs,
                transform=rasterio.Affine(*metadata.geo.transform),
                nodata=metadata.nodata,
            ) as one:
                if metadata.geo.pixel_is_point:
                    one.update_tags(AREA_OR_POINT="Point")
                for band, name in enumerate(metadata.names[:channels], 1):
                    one.set_band_description(band, name)
        except (rasterio.errors.RasterioError, ValueError) as error:
            raise FormatError(
                f"georeference cannot be written ({one_line(error)}); export with --format tiff without it"
            ) from error
        with tifffile.TiffFile(memory) as tiff:
            found = tiff.pages[0].tags  # type: ignore[union-attr]
            return [
                (
                    tag.code,
                    int(tag.dtype),
                    0 if isinstance(tag.value, str) else tag.count,
                    tag.value,
                    True,
                )
                for tag in (found.get(code) for code in _TAGS)
                if tag is not None
            ]


def nodata_text(nodata: float) -> str:
    """Return the text of GDAL's nodata tag; a whole number has no decimals."""
    return (
        str(int(nodata))
        if float(nodata).is_integer() and abs(nodata) < 2**53
        else repr(float(nodata)).lower()
    )


def require() -> None:
    """Raise FormatError when the extra `geo` is not installed."""
    _rasterio()


def _rasterio() -> Any:
    try:
        import rasterio
        import rasterio.errors
    except ImportError:
        raise FormatError(
            "georeferenced files need rasterio, which is not installed; pip install 'gigarestore[geo]'"
        ) from None
    return rasterio


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence rasterio's warning about images without georeference; here it means one that is the
    identity.
    """
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
