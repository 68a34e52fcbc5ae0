"""Measures of a restored image: PSNR, SSIM, and consistency with the measurement.

numpy only. Images are (C, H, W); the meter is fed window by window and holds nothing that grows
with the area.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
Float64 = NDArray[np.float64]

# Wang et al. 2004, section III.B: an 11-tap Gaussian of 1.5 px, and the constants that steady the
# two fractions.
SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_K1 = 0.01
SSIM_K2 = 0.03


def psnr(image: Image, reference: Image, data_range: float) -> float:
    """Return the peak signal-to-noise ratio in dB, infinite for equal images.

    image, reference: (C, H, W), any dtype. data_range: largest minus smallest storable value (255
    for uint8).
    """
    _check_pair(image, reference)
    difference = image.astype(np.float64) - reference.astype(np.float64)
    error = np.mean(difference**2)
    if error == 0:
        return math.inf
    ratio = data_range**2 / error
    return float(10.0 * np.log10(ratio))


def ssim(image: Image, reference: Image, data_range: float) -> float:
    """Return the mean structural similarity over channels and all windows inside the image (Wang et
    al. 2004, Eq. 13).

    image, reference: (C, H, W), any dtype, sides at least 11 px. data_range: as for `psnr`.
    Population covariance.
    """
    _check_pair(image, reference)
    least = 2 * SSIM_RADIUS + 1
    height, width = image.shape[1:]
    if min(height, width) < least:
        raise ValueError(f"image {height} x {width} is smaller than SSIM's window of {least} px")
    pairs = zip(image, reference, strict=True)
    channels = [_ssim_channel(x, y, data_range) for x, y in pairs]
    return float(np.mean(channels))


def _ssim_channel(image: Image, reference: Image, data_range: float) -> float:
    x = image.astype(np.float64)
    y = reference.astype(np.float64)
    mean_x = _blur(x)
    mean_y = _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    k1 = (SSIM_K1 * data_range) ** 2
    k2 = (SSIM_K2 * data_range) ** 2

    common = (2 * mean_x * mean_y + k1) * (2 * covariance + k2)
    apart = (mean_x**2 + mean_y**2 + k1) * (var_x + var_y + k2)
    return float(np.mean(common / apart))


def _blur(x: Float64) -> Float64:
    """Return the Gaussian mean of every window that lies inside x, one axis after the other."""
    places = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    taps = np.exp(-0.5 * (places / SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    height, width = (size - 2 * SSIM_RADIUS for size in x.shape)
    rows: Float64 = np.zeros((height, x.shape[1]))
    for i, tap in enumerate(taps):
        rows += tap * x[i : i + height]
    blurred: Float64 = np.zeros((height, width))
    for i, tap in enumerate(taps):
        blurred += tap * rows[:, i : i + width]
    return blurred


def _check_pair(image: Image, reference: Image) -> None:
    if image.shape != reference.shape or image.ndim != 3:
        raise ValueError(
            f"image {image.shape} and reference {reference.shape} are not two (C, H, W) of one size"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Report |A x - y| in grey levels of the stored dtype."""

    max: float
    """Over all cells but the clipped ones; noise-free tasks are within rounding (0.5)."""
    rms: float
    cells: int
    """Measurement values compared, not counting clipped ones."""
    clipped: int
    """Measurement values left out because a pixel under them sits at a limit of the dtype."""
    clipped_max: float
    """Largest |A x - y| among those."""
    beside: int = 0
    """Of `cells`, those that see a pixel at a limit of the dtype and overlap with others."""
    beside_max: float = 0.0
    """Largest |A x - y| among those."""
    elsewhere_max: float = 0.0
    """Largest |A x - y| among the other ones of `cells`."""
    far: int = 0
    """Of `cells`, those that miss by more than noise explains; 0 where nobody says what does."""


@dataclass(slots=True)
class ConsistencyMeter:
    """Accumulate |A x - y| over windows."""

    explained: float = math.inf
    """The most that noise explains of |A x - y|, grey levels."""
    _max: float = 0.0
    _squares: float = 0.0
    _cells: int = 0
    _clipped: int = 0
    _clipped_max: float = 0.0
    _beside: int = 0
    _beside_max: float = 0.0
    _elsewhere_max: float = 0.0
    _far: int = 0

    def update(
        self,
        measured: Image,
        y: Image,
        clipped: NDArray[np.bool_] | None = None,
        valid: NDArray[np.bool_] | None = None,
        beside: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add a window.

        measured: A x of the stored image, (C', h, w) in grey levels. y: the measurement, same shape
        and unit. clipped, valid: broadcast to that shape; which cells have a pixel at a limit
        (`clipped_cells`), and which count at all (a mask's known ones). beside: same shape, which
        of those that count see a pixel at a limit.
        """
        error = np.abs(measured.astype(np.float64) - y.astype(np.float64))
        counted = np.ones(error.shape, bool)
        if valid is not None:
            counted = np.broadcast_to(valid, error.shape)
        limited = np.zeros(error.shape, bool)
        if clipped is not None:
            limited = np.broadcast_to(clipped, error.shape) & counted

        near = np.zeros(error.shape, bool) if beside is None else beside & counted
        self._beside += int(near.sum())
        self._beside_max = max(self._beside_max, float(error[near].max(initial=0.0)))
        elsewhere = error[counted & ~limited & ~near]
        self._elsewhere_max = max(self._elsewhere_max, float(elsewhere.max(initial=0.0)))

        free = error[counted & ~limited]
        largest = float(free.max(initial=0.0))
        self._max = max(self._max, largest)
        self._squares += float((free**2).sum())
        self._cells += free.size
        self._far += int((free > self.explained).sum())

        limited_error = error[limited]
        largest = float(limited_error.max(initial=0.0))
        self._clipped_max = max(self._clipped_max, largest)
        self._clipped += limited_error.size

    def result(self) -> Consistency:
        """Return what has been seen so far; zeros when that is nothing."""
        rms = 0.0
        if self._cells:
            rms = math.sqrt(self._squares / self._cells)
        return Consistency(
            max=self._max,
            rms=rms,
            cells=self._cells,
            clipped=self._clipped,
            clipped_max=self._clipped_max,
            beside=self._beside,
            beside_max=self._beside_max,
            elsewhere_max=self._elsewhere_max,
            far=self._far,
        )


def clipped_cells(
    pixels: Image,
    scale: int,
    limits: tuple[float, float],
    across_channels: bool = False,
) -> NDArray[np.bool_]:
    """Return which measurement cells have an output pixel at a limit of the dtype, (C, H/scale,
    W/scale) bool.

    pixels: (C, H, W) as stored, aligned to the scale. limits: smallest and largest storable value.
    across_channels: for operators that average the channels; the result then is (1, H/scale,
    W/scale).
    """
    channels, height, width = pixels.shape
    if height % scale or width % scale:
        raise ValueError(
            f"window {height} x {width} is not a multiple of {scale} px; feed aligned windows"
        )
    smallest, largest = limits
    at_limit = (pixels <= smallest) | (pixels >= largest)
    blocks = at_limit.reshape(channels, height // scale, scale, width // scale, scale)
    cells = blocks.any(axis=(2, 4))
    if across_channels:
        cells = cells.any(axis=0, keepdims=True)
    return np.asarray(cells)
