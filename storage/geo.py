"""Where an image lies on a map: coordinate system and affine transform from pixels to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from storage.errors import FormatError

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Georeference:
    """Place pixels on a map: x = a col + b row + c, y = d col + e row + f.

    (row, col) = (0, 0) is the outer corner of the first pixel (pixel is area), whatever the
    source's convention was: a grid that is cut finer then keeps its origin. Raises FormatError for
    a transform that no pixel size can have.
    """

    crs: str
    """Coordinate reference system as WKT; empty where the file gives a transform but no system."""
    transform: Transform
    """(a, b, c, d, e, f): map units per pixel, and with c and f the corner of pixel (0, 0)."""
    epsg: int | None = None
    """EPSG code of the system, where the source named one."""
    pixel_is_point: bool = False
    """Whether the source counted from pixel centres (GeoTIFF's RasterPixelIsPoint).

    Kept when it is written again.
    """

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.transform
        finite = all(map(math.isfinite, self.transform))
        if not finite or a * e - b * d == 0:
            raise FormatError(
                f"geotransform {self.transform} maps no area (not finite, or its determinant is "
                "0); correct it, for example with gdal_edit -a_ullr"
            )

    def at(self, row: float, col: float) -> tuple[float, float]:
        """Return the map position (x, y) of a position in the grid.

        (0.5, 0.5) is the centre of the first pixel.
        """
        a, b, c, d, e, f = self.transform
        x = a * col + b * row + c
        y = d * col + e * row + f
        return x, y

    def bounds(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return (left, bottom, right, top) of an image of height x width px, in map units."""
        corners = [self.at(row, col) for row in (0, height) for col in (0, width)]
        xs = [x for x, _ in corners]
        ys = [y for _, y in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def scaled(self, scale: float) -> Georeference:
        """Return the same area under a grid `scale` times finer: bounds and rotation stay."""
        a, b, c, d, e, f = self.transform
        transform = (a / scale, b / scale, c, d / scale, e / scale, f)
        return replace(self, transform=transform)

    def cropped(self, y: int, x: int) -> Georeference:
        """Return the georeference of a crop whose first pixel is (y, x) of this grid.

        Negative for a padded image.
        """
        a, b, _, d, e, _ = self.transform
        c, f = self.at(y, x)
        return replace(self, transform=(a, b, c, d, e, f))

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON values; floats survive exactly."""
        return {
            "crs": self.crs,
            "epsg": self.epsg,
            "transform": list(self.transform),
            "pixel_is_point": self.pixel_is_point,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Georeference:
        """Return what `as_dict` described; raises FormatError on anything else."""
        try:
            a, b, c, d, e, f = map(float, values["transform"])
            epsg = values.get("epsg")
            return cls(
                crs=str(values["crs"]),
                epsg=None if epsg is None else int(epsg),
                transform=(a, b, c, d, e, f),
                pixel_is_point=bool(values.get("pixel_is_point", False)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"georeference {values!r}: needs crs and a transform of 6 numbers; "
                "publish the image again"
            ) from error
