"""What the samples of an image mean beyond their numbers.

It goes into every published image and every export.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from storage.errors import FormatError
from storage.geo import Georeference
from storage.image import MaskForm

ICC = "icc_profile"
"""Attribute of a published image: the colour profile, base64."""
VALIDITY = "validity"
"""Folder beside the pixels that says which samples are valid: the same shape, 0 is none."""
RASTER = "raster"
"""Attribute of a published image: nodata, georeference and band names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMetadata:
    """Name an image's bands, its empty value, place on a map, pixel size and colours."""

    names: tuple[str, ...] = ()
    """One per band; empty when nothing named them."""
    nodata: float | None = None
    """Value of pixels that hold nothing; NaN is allowed for float32."""
    mask: MaskForm = ""
    """Whether the image says beside its samples which are valid, and as what it is exported."""
    geo: Georeference | None = None
    pixel_size: tuple[float, float] | None = None
    """(y, x) in micrometres."""
    icc: bytes | None = field(default=None, repr=False)
    origin: tuple[float, float] = (0.0, 0.0)
    """Centre of the first pixel, (y, x) in px, from the centre of the source's first pixel.

    A grid that is s times finer begins at -(s - 1)/2: both grids cover the same area.
    """

    def scaled(self, scale: int) -> ImageMetadata:
        """Return the metadata of the same area under a grid `scale` times finer."""
        pixel_size = None
        if self.pixel_size is not None:
            size_y, size_x = self.pixel_size
            pixel_size = (size_y / scale, size_x / scale)
        y, x = self.origin
        shift = (scale - 1) / 2
        return replace(
            self,
            geo=None if self.geo is None else self.geo.scaled(scale),
            pixel_size=pixel_size,
            origin=(y * scale - shift, x * scale - shift),
        )

    def cropped(self, y: int, x: int) -> ImageMetadata:
        """Return the metadata of a crop whose first pixel is (y, x).

        Negative where the image was padded.
        """
        geo = None if self.geo is None else self.geo.cropped(y, x)
        first_y, first_x = self.origin
        return replace(self, geo=geo, origin=(first_y + y, first_x + x))

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that OME-Zarr has no place for; JSON values."""
        raster: dict[str, Any] = {}
        if self.names:
            raster["names"] = list(self.names)
        if self.nodata is not None:
            raster["nodata"] = self.nodata if math.isfinite(self.nodata) else str(self.nodata)
        if self.mask:
            raster["validity"] = {"path": VALIDITY, "as": self.mask}
        if self.geo is not None:
            raster["georeference"] = self.geo.as_dict()
        if self.origin != (0.0, 0.0):
            raster["origin"] = list(self.origin)

        attributes: dict[str, Any] = {}
        if self.icc:
            attributes[ICC] = base64.b64encode(self.icc).decode("ascii")
        if raster:
            attributes[RASTER] = raster
        return attributes

    @classmethod
    def of(
        cls, attributes: Mapping[str, Any], pixel_size: tuple[float, float] | None
    ) -> ImageMetadata:
        """Return what `attributes` described; raises FormatError for those of another shape."""
        raster = attributes.get(RASTER) or {}
        try:
            geo = raster.get("georeference")
            nodata = raster.get("nodata")
            y, x = raster.get("origin", (0.0, 0.0))
            return cls(
                names=tuple(str(name) for name in raster.get("names", ())),
                nodata=None if nodata is None else float(nodata),
                mask=_mask(raster.get("validity")),
                geo=None if geo is None else Georeference.from_dict(geo),
                pixel_size=pixel_size,
                icc=_decode_icc(attributes.get(ICC)),
                origin=(float(y), float(x)),
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"attribute {RASTER} {raster!r} cannot be read; publish the image again"
            ) from error


def _mask(validity: Mapping[str, Any] | None) -> MaskForm:
    if validity is None:
        return ""
    said = validity["as"]
    return said if said in ("alpha", "associated") else "mask"


def _decode_icc(text: object) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except binascii.Error:
        return None
