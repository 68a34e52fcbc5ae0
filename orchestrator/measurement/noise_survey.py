"""What an image says of its own noise: levels of spread windows, in bounded reads.

Left out is what would mislead: samples without data or that a mask calls unknown, those at a limit
of the dtype or of the file's range, where clipping has cut the noise off, and areas of one value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.noise_models.counts import CountNoise
from kernels.noise_models.gaussian_level import block_levels, noise_level
from kernels.noise_models.mean_variance import block_moments, fit_line
from orchestrator.job.fields.noise_option import NoiseModel
from orchestrator.job.fields.pixel_rules import CURRENT
from orchestrator.job.fields.sections import InputSpec
from orchestrator.job.inputs import NoiseSurvey
from orchestrator.job.value_range import LIMITS
from orchestrator.measurement.input_file import equals, open_file
from orchestrator.measurement.mask_reading import mask_known
from orchestrator.measurement.range_survey import windows_along
from orchestrator.measurement.value_statistics import spread_windows
from storage.box import Box
from storage.image import ImageInfo, Reader
from storage.readers.cache import CachedReader
from storage.readers.reader_registry import open_image

Marks = NDArray[np.bool_]
Window = tuple[NDArray[Any], Marks]
"""Stored samples of a window and which of them have a say, both (C, h, w)."""


def survey_noise(given: InputSpec, *, grey: bool = False) -> NoiseSurvey:
    """Estimate the noise of a file's chosen bands; the same file gives the same figures.

    given: with what resolving has filled in. grey: the measurement is the mean of the bands.
    Memory is that of a window, whatever the image's size (of a file that is decoded whole, the
    file's). Raises FormatError.
    """
    levels: list[list[float]] = []
    for samples, valid in noise_windows(given):
        if grey and len(samples) > 1:
            samples = samples.mean(axis=0, keepdims=True, dtype=np.float64)
            valid = np.asarray(valid.all(axis=0, keepdims=True))
        if not levels:
            levels = [[] for _ in samples]
        for band, found in enumerate(levels):
            found += block_levels(samples[band], valid[band])
    return NoiseSurvey(levels=tuple(noise_level(found) for found in levels))


def fit_counts(given: InputSpec) -> CountNoise | None:
    """Fit gain and read noise of a file's photon counts, one line for all bands; None where the
    file allows none.

    No light is as good a sample as any: only white is left out. Raises FormatError.
    """
    return fit_line(_moments(given))


def excess_of_model(given: InputSpec, model: NoiseModel) -> float | None:
    """Return how many times the noise of a file a model makes; None where it cannot be told.

    Counts: at the median brightness, against the line that is fitted to the file. Speckle: on the
    scale of the logarithm.
    """
    if isinstance(model, CountNoise):
        moments = _moments(given)
        line = fit_line(moments)
        if line is None:
            return None
        brightness = float(np.median([mean for mean, _ in moments]))
        found = _variance(line, brightness)
        return math.sqrt(_variance(model, brightness) / found) if found > 0 else None
    levels: list[float] = []
    for samples, valid in noise_windows(given):
        for band, marks in zip(model.stabilise(samples), valid, strict=True):
            levels += block_levels(band, marks)
    level = noise_level(levels)
    return model.deviation / level if level else None


def _variance(counts: CountNoise, brightness: float) -> float:
    """Return the variance of samples of a mean brightness."""
    return max(counts.gain * (brightness - counts.offset), 0.0) + counts.read**2


def _moments(given: InputSpec) -> list[tuple[float, float]]:
    moments: list[tuple[float, float]] = []
    for samples, valid in noise_windows(given, black=True):
        for band, marks in zip(samples, valid, strict=True):
            moments += block_moments(band, marks)
    return moments


def noise_windows(given: InputSpec, *, black: bool = False) -> Iterator[Window]:
    """Yield the spread windows of a file with what of them shows noise as it is.

    black: samples at the lower limit do.
    """
    image = CachedReader(open_file(given))
    mask = None if given.mask is None else open_image(given.mask)
    info = image.info
    y0, x0, y1, x1 = given.crop or (0, 0, info.height, info.width)
    try:
        for window in spread_windows(y1 - y0, x1 - x0, windows_along(info)):
            box = window.shift(y0, x0)
            samples, valid = image.read_valid(box)
            measured = unclipped(samples, info, black=black)
            if valid is not None:
                measured &= valid
            if given.positive:
                measured &= samples > 0
            if given.nodata is not None:
                measured &= ~equals(samples, given.nodata)
            if mask is not None:
                measured &= _by_mask(given, mask, box, info)
            yield samples, measured
    finally:
        image.close()
        if mask is not None:
            mask.close()


def unclipped(samples: NDArray[Any], info: ImageInfo, *, black: bool = False) -> Marks:
    """Return which samples lie within the limits of the dtype and of the file's own range.

    black: the lower limit is within.
    """
    inside = np.isfinite(samples)
    for least, most in (LIMITS[info.dtype], info.limits or LIMITS[info.dtype]):
        above = np.asarray(samples >= least if black else samples > least)
        inside &= above & (samples < most)
    return np.asarray(inside)


def _by_mask(given: InputSpec, mask: Reader, box: Box, info: ImageInfo) -> Marks:
    """Return which samples of a window a mask calls known, all pixels of a cell, (1, h, w)."""
    scale = mask.info.height // info.height
    height, width = box.shape
    marks = mask_known(given, CURRENT, mask.read(box.scale(scale)))
    cells = marks.reshape(1, height, scale, width, scale)
    return np.asarray(cells.all(axis=(2, 4)))
