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
"""A tag for tifffile's extratags: code, type, count, value, whether only page 0 carries it."""

# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams,
# GeoAsciiParams, GDAL metadata (band names) and GDAL nodata.
_NODATA = 42113
_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, _NODATA)
# The TIFF type of texts.
_ASCII = 2
# Of memory for GDAL's block cache, bytes: the default is 5 % of the machine's.
_CACHE = 128 << 20


def tags(
    metadata: ImageMetadata,
    *,
    channels: int,
    dtype: str,
) -> list[Tag]:
    """Return the tags that carry georeference, nodata and band names, as GDAL writes them.

    Without georeference only nodata, which needs no GDAL. Raises FormatError when the extra `geo`
    is not installed, or GDAL does not know the coordinate system.
    """
    if metadata.geo is not None:
        return _tags_by_gdal(metadata, channels, dtype)
    if metadata.nodata is None:
        return []
    return [(_NODATA, _ASCII, 0, nodata_text(metadata.nodata), True)]


def _tags_by_gdal(
    metadata: ImageMetadata,
    channels: int,
    dtype: str,
) -> list[Tag]:
    """Return the tags of an image of one pixel in memory that GDAL has written.

    So GDAL decides how a coordinate system is put into GeoKeys, and where a tie point lies when
    pixels are points.
    """
    rasterio = _rasterio()
    from rasterio.io import MemoryFile

    with _quiet(), rasterio.Env(GDAL_CACHEMAX=_CACHE), MemoryFile() as memory:
        try:
            _write_one_pixel(memory, metadata, channels, dtype)
        except (rasterio.errors.RasterioError, ValueError) as error:
            raise FormatError(
                f"georeference cannot be written ({one_line(error)}); "
                "export with --format tiff without it"
            ) from error
        with tifffile.TiffFile(memory) as tiff:
            written = tiff.pages[0].tags  # type: ignore[union-attr]
            present = [tag for tag in map(written.get, _TAGS) if tag is not None]
            return [_copied(tag) for tag in present]


def _write_one_pixel(
    memory: Any,
    metadata: ImageMetadata,
    channels: int,
    dtype: str,
) -> None:
    """Write an image of one pixel with everything that is to be said of the whole one."""
    rasterio = _rasterio()
    assert metadata.geo is not None
    crs = rasterio.crs.CRS.from_wkt(metadata.geo.crs) if metadata.geo.crs else None
    with memory.open(
        driver="GTiff",
        height=1,
        width=1,
        count=channels,
        dtype=dtype,
        interleave="pixel",
        crs=crs,
        transform=rasterio.Affine(*metadata.geo.transform),
        nodata=metadata.nodata,
    ) as one:
        if metadata.geo.pixel_is_point:
            one.update_tags(AREA_OR_POINT="Point")
        for band, name in enumerate(metadata.names[:channels], 1):
            one.set_band_description(band, name)


def _copied(tag: Any) -> Tag:
    """Return a tag as tifffile takes it; of texts it counts the bytes itself."""
    count = 0 if isinstance(tag.value, str) else tag.count
    first_page_only = True
    return tag.code, int(tag.dtype), count, tag.value, first_page_only


def nodata_text(nodata: float) -> str:
    """Return the text of GDAL's nodata tag; a whole number has no decimals."""
    whole = float(nodata).is_integer() and abs(nodata) < 2**53
    return str(int(nodata)) if whole else repr(float(nodata)).lower()


def require() -> None:
    """Raise FormatError when the extra `geo` is not installed."""
    _rasterio()


def _rasterio() -> Any:
    try:
        import rasterio
        import rasterio.errors
    except ImportError:
        raise FormatError(
            "georeferenced files need rasterio, which is not installed; "
            "pip install 'gigarestore[geo]'"
        ) from None
    return rasterio


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence rasterio's warning of no georeference; here it means one that is the identity."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
