"""Which stored values are black and white: the full range of the dtype, or two numbers that the
user or the file states, or that were fitted to the samples (orchestrator.measurement.range_survey).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PlanError
from orchestrator.job.fields.noise_option import NoiseModel
from orchestrator.job.fields.sections import Ends, Range
from storage import pixels

LIMITS: dict[str, tuple[float, float]] = {
    "uint8": (0.0, 255.0),
    "int16": (-32768.0, 32767.0),
    "uint16": (0.0, 65535.0),
    "float32": (-3.4028234663852886e38, 3.4028234663852886e38),
}
"""Smallest and largest value of every dtype."""
UNSIGNED = ("uint8", "uint16")
Placed = float | NDArray[np.float64]
"""A number for all bands, or (C, 1, 1)."""


def stated_values(values: Range | str | None) -> Range | None:
    """Return the numbers that a job states as black and white; None: the limits of the dtype."""
    return None if values is None or isinstance(values, str) else values


def of_each_band(values: Range) -> tuple[Ends, ...]:
    """Return black and white of each band; one pair where all have the same."""
    if isinstance(values[0], tuple):
        return tuple(values)  # type: ignore[arg-type]
    return (values,)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Values:
    """Map stored values low..high to [-1, 1]; values outside map outside, and come back exactly."""

    dtype: str
    low: float
    """Of all bands: the least."""
    high: float
    noise: NoiseModel | None = None
    """Noise that depends on the brightness: [-1, 1] is then the scale on which it does not, from
    what is expected of black to what is expected of white.
    """

    bands: tuple[Ends, ...] = ()
    """Black and white of each band, where they have their own; empty where all have the same."""

    @classmethod
    def build(
        cls,
        dtype: str,
        limits: Range | None = None,
        noise: NoiseModel | None = None,
        count: int | None = None,
    ) -> Values:
        """Check limits against the dtype; None: its full range. Raises PlanError.

        count: bands of the image, where limits of each may be given.
        """
        if dtype not in LIMITS:
            raise PlanError(
                f"images of dtype {dtype} are not supported; convert to one of {', '.join(LIMITS)}"
            )
        if limits is None and dtype not in UNSIGNED:
            raise PlanError(
                f"{dtype} values have no black and white of their own; say which they are: "
                "--range LOW,HIGH"
            )
        each = of_each_band(LIMITS[dtype] if limits is None else limits)
        for ends in each:
            _check(ends, dtype)
        if len(each) not in (1, count or len(each)):
            raise PlanError(
                f"--range states black and white of {len(each)} bands, the image has {count}; "
                "give LOW,HIGH for all, or for each"
            )
        low = min(low for low, _ in each)
        high = max(high for _, high in each)
        if noise is not None and noise.positive and low <= 0:
            if dtype == "float32":
                raise PlanError(
                    f"--noise speckle works on logarithms, and black is {low:g}; "
                    "give --range LOW,HIGH with LOW above 0"
                )
            low = 1.0
        values = cls(dtype, float(low), float(high), noise, each if len(each) > 1 else ())
        if noise is not None and not values._stabilised[1] > 0:
            raise PlanError(
                f"--noise: white, {high:g}, is no brighter than no light; "
                "give a smaller offset, or a larger --range LOW,HIGH"
            )
        return values

    @property
    def levels(self) -> float:
        """Grey levels from black to white; of the band with most."""
        return max(high - low for low, high in self.bands or ((self.low, self.high),))

    @property
    def full(self) -> bool:
        """Whether the range is the dtype's own, and [-1, 1] is linear in stored values."""
        whole_range = (self.low, self.high) == LIMITS[self.dtype]
        linear = self.noise is None and not self.bands
        return linear and self.dtype in UNSIGNED and whole_range

    @property
    def whole(self) -> bool:
        """Whether stored values are whole numbers, and results are rounded to them."""
        return self.dtype != "float32"

    def first(self, count: int) -> Values:
        """Return those of the first `count` bands."""
        return replace(self, bands=self.bands[:count])

    def storable(self, reserved: float | None = None) -> tuple[Placed, Placed]:
        """Return the least and largest value that the dtype can store, in the unit of [-1, 1].

        reserved: a value that no sample may take (nodata): where it is the least or the largest,
        the next one is the limit.
        """
        least, most = LIMITS[self.dtype]
        least += least == reserved
        most -= most == reserved
        if self.noise is not None and self.noise.positive:
            least = max(least, 1.0)
        return self.place(least), self.place(most)

    def place(self, stored: float) -> Placed:
        """Return where a stored value of a result lies in the unit of [-1, 1]: a number, or
        (C, 1, 1) where bands have black and white of their own.
        """
        if self.noise is None:
            low, levels = self._scale()
            return (stored - low) * (2.0 / levels) - 1.0
        bottom, step = self._stabilised
        return float((self.noise.expect(np.array([stored]))[0] - bottom) / step - 1.0)

    def unrestored(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what stands for measured samples among results, both in the unit of [-1, 1].

        A result is the mean of a sample on the scale of even noise, which is not where the sample
        itself lies.
        """
        if self.noise is None:
            return values
        bottom, step = self._stabilised
        samples = self.noise.unstabilise((values.astype(np.float64) + 1.0) * step + bottom)
        return ((self.noise.expect(samples) - bottom) / step - 1.0).astype(np.float32)

    @property
    def noise_deviation(self) -> float:
        """Return the deviation of the noise that the model leaves, in the unit of [-1, 1]; 0
        without a model.
        """
        return 0.0 if self.noise is None else self.noise.deviation / self._stabilised[1]

    @property
    def linear(self) -> Values:
        """Return the same black and white for samples as they are stored."""
        return replace(self, noise=None)

    def _scale(self) -> tuple[Placed, Placed]:
        """Return black and the levels up to white: numbers, or (C, 1, 1) of each band."""
        if not self.bands:
            return self.low, self.levels
        ends = np.array(self.bands)[:, :, None, None]
        return ends[:, 0], ends[:, 1] - ends[:, 0]

    @property
    def _stabilised(self) -> tuple[float, float]:
        """What is expected of black, and half of the way from there to white."""
        assert self.noise is not None, "asked for a model only"
        black, white = self.noise.expect(np.array([self.low, self.high]))
        return float(black), float(white - black) / 2.0

    def to_unit(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Map stored values to float32: of any shape, or (C, h, w) where bands have their own."""
        if self.full:
            return pixels.to_unit(stored, self.dtype)
        if self.noise is not None:
            bottom, step = self._stabilised
            return ((self.noise.stabilise(stored) - bottom) / step - 1.0).astype(np.float32)
        low, levels = self._scale()
        return ((stored.astype(np.float64) - low) * (2.0 / levels) - 1.0).astype(np.float32)

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
        if self.noise is None:
            low, levels = self._scale()
            stored = (values.astype(np.float64) + 1.0) * (levels / 2.0) + low
        else:
            bottom, step = self._stabilised
            stored = self.noise.invert((values.astype(np.float64) + 1.0) * step + bottom)
        least, most = LIMITS[self.dtype]
        if self.whole:
            stored = np.floor(stored + 0.5)
            if self.noise is not None and self.noise.positive:
                least = max(least, 1.0)
        return stored.clip(least, most).astype(self.dtype)


def _check(ends: Ends, dtype: str) -> None:
    """Raise PlanError for black and white that the dtype cannot have."""
    least, most = LIMITS[dtype]
    low, high = ends
    if not least <= low < high <= most:
        raise PlanError(
            f"--range {low:g},{high:g} is no range of {dtype} values; give LOW,HIGH within "
            f"{least:g} to {most:g}"
        )
