"""Which stored values are black and white: the full range of the dtype, or what the user states; never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PlanError
from storage import pixels

PEAK = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True, slots=True)
class Values:
    """Map stored values low..high to [-1, 1]; values outside map outside, and come back exactly."""

    dtype: str
    low: float
    high: float

    @classmethod
    def build(cls, dtype: str, limits: tuple[float, float] | None = None) -> Values:
        """Check limits against the dtype; None: its full range. Raises PlanError."""
        if dtype not in PEAK:
            raise PlanError(f"images of dtype {dtype} are not supported; convert to one of {', '.join(PEAK)}")
        low, high = (0.0, PEAK[dtype]) if limits is None else limits
        if not 0 <= low < high <= PEAK[dtype]:
            raise PlanError(
                f"--range {low:g},{high:g} is no range of {dtype} values; give LOW,HIGH within 0 to {PEAK[dtype]:g}"
            )
        return cls(dtype, float(low), float(high))

    @property
    def levels(self) -> float:
        """Grey levels from black to white."""
        return self.high - self.low

    @property
    def full(self) -> bool:
        return (self.low, self.high) == (0.0, PEAK[self.dtype])

    def to_unit(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Map stored values of any shape to float32."""
        if self.full:
            return pixels.to_unit(stored, self.dtype)
        return ((stored.astype(np.float64) - self.low) * (2.0 / self.levels) - 1.0).astype(np.float32)

    def from_unit(self, values: NDArray[np.floating]) -> NDArray[np.unsignedinteger]:
        """Round to the nearest stored value (halves up), clipped at the dtype's own limits, not at the range."""
        if self.full:
            return pixels.from_unit(values, self.dtype)
        if np.isnan(values).any():
            raise ValueError(f"NaN cannot become {self.dtype}; the result that is being published is not finite")
        stored = (values.astype(np.float64) + 1.0) * (self.levels / 2.0) + (self.low + 0.5)
        found: NDArray[np.unsignedinteger] = np.floor(stored).clip(0, PEAK[self.dtype]).astype(self.dtype)
        return found
