"""Lengths in micrometres."""

from __future__ import annotations

import math

from storage.errors import FormatError

_MICROMETRES = {
    "pm": 1e-6,
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,  # the Greek letter, which OME files use as often as the micro sign
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "\\u00b5m": 1.0,  # as ImageJ writes it
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25_400.0,
}


def micrometres(
    path: str,
    value: object,
    unit: str,
) -> float | None:
    """Return a pixel's side in micrometres, None for a unit that is not a length (pixels).

    Raises FormatError for a length that no pixel can have: zero, negative or not a number.
    """
    factor = _MICROMETRES.get(unit) or _MICROMETRES.get(unit.lower())
    if factor is None:
        return None
    try:
        side = float(str(value)) * factor
    except ValueError:
        side = math.nan
    if not (math.isfinite(side) and side > 0):
        raise FormatError(
            f"{path}: says that a pixel is {value} {unit} wide; correct the file's pixel size"
        )
    return side
