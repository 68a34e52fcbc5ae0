"""GeoTIFF tags: transform, coordinate system, nodata and band names of a page.

Source: OGC GeoTIFF 1.1, sections 7.1 (keys) and B (transformations); GDAL's tags 42112 and 42113.
The coordinate system is translated by GDAL from these tags alone: it never opens the user's file.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from storage.errors import FormatError, one_line
from storage.geo import Georeference
from storage.readers.tiff.safe_xml import children, parse_xml

if TYPE_CHECKING:
    from storage.geo import Transform

_SCALE = 33550
_TIEPOINTS = 33922
_MATRIX = 34264
_KEYS = 34735
_DOUBLES = 34736
_TEXTS = 34737
_METADATA = 42112
_NODATA = 42113
_RPC = 50844
_MODEL_TYPE = 1024
_RASTER_TYPE = 1025
_PIXEL_IS_POINT = 2
_PROJECTED = 3072
_GEOGRAPHIC = 2048
_USER_DEFINED = 32767
# TIFF types of values.
_ASCII = 2
_SHORT = 3
_DOUBLE = 12
# Above this a value overflows float32 to infinity.
_LARGEST_FLOAT32 = 3.5e38
_CONTROL_NOTE = "ground control points or RPCs are left out: only affine transforms are kept"


def read_georeference(path: str, page: tifffile.TiffPage) -> tuple[Georeference | None, list[str]]:
    """Return where a page lies, or None when it does not say, and notes about what is left out.

    Raises FormatError for a transform that maps no area, or a system that needs the extra `geo` to
    be understood.
    """
    keys = _geo_keys(page)
    pixel_is_point = keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT
    transform = _transform(page, point=pixel_is_point)
    if transform is None:
        points = page.tags.valueof(_TIEPOINTS)
        several_points = points is not None and len(points) > 6
        rational_polynomials = page.tags.valueof(_RPC) is not None
        left_out = several_points or rational_polynomials
        return None, [_CONTROL_NOTE] if left_out else []
    wkt, epsg = _system(path, page, keys)
    try:
        geo = Georeference(
            crs=wkt,
            transform=transform,
            epsg=epsg,
            pixel_is_point=pixel_is_point,
        )
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    return geo, []


def is_georeferenced(page: tifffile.TiffPage) -> bool:
    """Tell whether a page lies on a map, or names a system of maps."""
    return any(page.tags.valueof(code) is not None for code in (_SCALE, _MATRIX, _KEYS))


def read_nodata(page: tifffile.TiffPage, dtype: str) -> tuple[float | None, list[str]]:
    """Return GDAL's nodata value as the dtype holds it, and a note where it cannot occur.

    None where there is none.
    """
    text = page.tags.valueof(_NODATA)
    if text is None:
        return None, []
    try:
        value = float(str(text).strip("\0 "))
    except ValueError:
        return None, [f"nodata {str(text)[:40]!r} is no number and is left out"]

    if dtype == "float32":
        in_range = math.isfinite(value) and abs(value) < _LARGEST_FLOAT32
        return (float(np.float32(value)) if in_range else value), []
    limits = np.iinfo(dtype)
    if not value.is_integer() or not limits.min <= value <= limits.max:
        return None, [f"nodata {value:g} cannot occur in {dtype} and is left out"]
    return value, []


def read_names(page: tifffile.TiffPage, samples: int) -> tuple[str, ...]:
    """Return the band names that GDAL keeps in its metadata, or none."""
    root = parse_xml(str(page.tags.valueof(_METADATA) or ""))
    items = [] if root is None else children(root, "Item")
    by_band = {}
    for item in items:
        band = item.get("sample") or ""
        if item.get("role") == "description" and band.isdecimal():
            by_band[int(band)] = item.text or ""
    names = tuple(by_band.get(band, "") for band in range(samples))
    return names if all(names) else ()


def _geo_keys(page: tifffile.TiffPage) -> dict[int, int]:
    """Return the keys whose values are short integers.

    After a header of four numbers an entry is (key, place of its value, count, value); place 0: the
    value itself.
    """
    keys = page.tags.valueof(_KEYS)
    table = [] if keys is None else [int(value) for value in keys]
    keys = {}
    for start in range(4, len(table) - 3, 4):
        key, place, _, value = table[start : start + 4]
        if place == 0:
            keys[key] = value
    return keys


def _transform(page: tifffile.TiffPage, *, point: bool) -> Transform | None:
    scale = page.tags.valueof(_SCALE)
    ties = page.tags.valueof(_TIEPOINTS)
    matrix = page.tags.valueof(_MATRIX)
    has_scale = scale is not None and len(scale) >= 2 and scale[0] and scale[1]
    has_tie = ties is not None and len(ties) >= 6
    if has_scale and has_tie:
        column, row, _, x, y, _ = map(float, ties[:6])
        a = float(scale[0])
        b = 0.0
        d = 0.0
        e = -abs(float(scale[1]))  # GDAL reads a negative scale as north-up too
        c = x - column * a
        f = y - row * e
    elif matrix is not None and len(matrix) == 16:
        a, b, _, c, d, e, _, f = map(float, matrix[:8])
    else:
        return None
    if point:  # the tags place the pixel's centre; its corner lies half a pixel before
        c = c - (a + b) / 2
        f = f - (d + e) / 2
    return a, b, c, d, e, f


def _system(
    path: str,
    page: tifffile.TiffPage,
    keys: dict[int, int],
) -> tuple[str, int | None]:
    """Return (WKT or 'EPSG:n', EPSG code or None) of the keys.

    An empty text where they name no system.
    """
    code = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC))
    says_nothing = not keys.keys() - {_MODEL_TYPE, _RASTER_TYPE}
    if code is None and says_nothing:
        return "", None
    try:
        return _wkt(page)
    except ImportError:
        if code is not None and 0 < code < _USER_DEFINED:
            return f"EPSG:{code}", code
    except Exception as error:  # GDAL's errors have no common type; all mean that it fails
        raise FormatError(
            f"{path}: its coordinate system cannot be understood: {one_line(error)}"
        ) from error
    raise FormatError(
        f"{path}: its coordinate system is not a plain EPSG code; reading it needs rasterio: "
        "pip install 'gigarestore[geo]'"
    )


def _wkt(page: tifffile.TiffPage) -> tuple[str, int | None]:
    """Translate the keys with GDAL, in a file of one pixel that holds nothing else."""
    import rasterio
    from rasterio.io import MemoryFile

    file = io.BytesIO()
    one_pixel = np.zeros((1, 1), np.uint8)
    tifffile.imwrite(
        file,
        one_pixel,
        extratags=_system_tags(page),
        metadata=None,
        photometric="minisblack",
    )
    with (
        warnings.catch_warnings(),
        rasterio.Env(CPL_DEBUG=False),
        MemoryFile(file.getvalue()) as memory,
    ):
        warnings.simplefilter("ignore")
        with memory.open() as dataset:
            crs = dataset.crs
            return (crs.to_wkt(), crs.to_epsg()) if crs else ("", None)


def _system_tags(page: tifffile.TiffPage) -> list[tuple[Any, ...]]:
    """Return the tags of a coordinate system, with a place that is as good as any."""
    tags: list[tuple[Any, ...]] = [
        (_SCALE, _DOUBLE, 3, (1.0, 1.0, 0.0), True),
        (_TIEPOINTS, _DOUBLE, 6, (0.0,) * 6, True),
    ]
    for code, kind in ((_KEYS, _SHORT), (_DOUBLES, _DOUBLE)):
        value = page.tags.valueof(code)
        if value is None:
            continue
        values = tuple(value) if np.ndim(value) else (value,)
        tags.append((code, kind, len(values), values, True))
    text = page.tags.valueof(_TEXTS)
    if text is not None:
        raw = str(text).encode("ascii", "replace")
        tags.append((_TEXTS, _ASCII, len(raw) + 1, raw, True))
    return tags
