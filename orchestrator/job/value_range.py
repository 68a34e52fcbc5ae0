"""Which stored values are black and white: the full range of the dtype, or two numbers that the
user or the file states, or that were fitted to the samples (orchestrator.measurement.range_survey).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PlanError
from storage import pixels

LIMITS: dict[str, tuple[float, float]] = {
    "uint8": (0.0, 255.0),
    "int16": (-32768.0, 32767.0),
    "uint16": (0.0, 65535.0),
    "float32": (-3.4028234663852886e38, 3.4028234663852886e38),
}
"""Smallest and largest value of every dtype."""
UNSIGNED = ("uint8", "uint16")


def stated_values(values: tuple[float, float] | str | None) -> tuple[float, float] | None:
    """Return the numbers that a job states as black and white; None: the limits of the dtype."""
    return None if values is None or isinstance(values, str) else values


@dataclass(frozen=True, slots=True)
class Values:
    """Map stored values low..high to [-1, 1]; values outside map outside, and come back exactly."""

    dtype: str
    low: float
    high: float

    @classmethod
    def build(cls, dtype: str, limits: tuple[float, float] | None = None) -> Values:
        """Check limits against the dtype; None: its full range. Raises PlanError."""
        if dtype not in LIMITS:
            raise PlanError(
                f"images of dtype {dtype} are not supported; convert to one of {', '.join(LIMITS)}"
            )
        if limits is None and dtype not in UNSIGNED:
            raise PlanError(
                f"{dtype} values have no black and white of their own; say which they are: "
                "--range LOW,HIGH"
            )
        least, most = LIMITS[dtype]
        low, high = (least, most) if limits is None else limits
        if not least <= low < high <= most:
            raise PlanError(
                f"--range {low:g},{high:g} is no range of {dtype} values; give LOW,HIGH within "
                f"{least:g} to {most:g}"
            )
        return cls(dtype, float(low), float(high))

    @property
    def levels(self) -> float:
        """Grey levels from black to white."""
        return self.high - self.low

    @property
    def full(self) -> bool:
        return self.dtype in UNSIGNED and (self.low, self.high) == LIMITS[self.dtype]

    @property
    def whole(self) -> bool:
        """Whether stored values are whole numbers, and results are rounded to them."""
        return self.dtype != "float32"

    def storable(self, reserved: float | None = None) -> tuple[float, float]:
        """Return the least and largest value that the dtype can store, in the unit of [-1, 1].

        reserved: a value that no sample may take (nodata): where it is the least or the largest,
        the next one is the limit.
        """
        least, most = LIMITS[self.dtype]
        least += least == reserved
        most -= most == reserved
        low, high = ((limit - self.low) * (2.0 / self.levels) - 1.0 for limit in (least, most))
        return low, high

    def to_unit(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Map stored values of any shape to float32."""
        if self.full:
            return pixels.to_unit(stored, self.dtype)
        return ((stored.astype(np.float64) - self.low) * (2.0 / self.levels) - 1.0).astype(
            np.float32
        )

    def from_unit(self, values: NDArray[np.floating]) -> NDArray[Any]:
        """Round to the nearest stored value (halves up), clipped at the dtype's own limits, not at
        the range.

        Floats are not rounded. Raises ValueError for NaN.
        """
        if self.full:
            return pixels.from_unit(values, self.dtype)
        if np.isnan(values).any():
            raise ValueError(
                f"NaN cannot become {self.dtype}; the result that is being published is not finite"
            )
        stored = (values.astype(np.float64) + 1.0) * (self.levels / 2.0) + self.low
        return (
            (np.floor(stored + 0.5) if self.whole else stored)
            .clip(*LIMITS[self.dtype])
            .astype(self.dtype)
        )
