"""The input file of a job: which part of it was chosen, what it is, and which of its samples are
none.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.fields.sections import NAN, InputSpec
from orchestrator.job.plan import Plan
from orchestrator.job.value_range import Values
from storage.box import Box
from storage.image import ImageInfo, Reader, Selection, check_memory
from storage.readers.reader_registry import inspect, open_image


def selection(given: InputSpec) -> Selection:
    """Return the part of the input file that was chosen."""
    return Selection(channel=given.channel, z=given.z, t=given.t)


def inspect_file(given: InputSpec) -> ImageInfo:
    """Describe the input file; raises FormatError on one line."""
    info = inspect(given.path or "", selection(given), max_pixels=given.max_pixels)
    check_memory(info, given.max_pixels)
    return info


def open_file(given: InputSpec, staged: Path | None = None) -> Reader:
    """Open the staged copy of the input where there is one, else the file itself."""
    if staged is not None and staged.exists():
        return open_image(staged)
    return open_image(given.path or "", selection(given), max_pixels=given.max_pixels)


def equals(pixels: NDArray[Any], value: float | str) -> NDArray[np.bool_]:
    """Return which samples have a value, of the same shape; "nan": those that are no number."""
    if value == NAN:
        return np.isnan(pixels) if pixels.dtype.kind == "f" else np.zeros(pixels.shape, bool)
    if pixels.dtype.kind == "f":
        return np.asarray(pixels == pixels.dtype.type(value))
    return np.asarray(pixels == value)


def read_measured(
    plan: Plan, reader: Reader, box: Box
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a window of the input, (C, h, w), and which of its samples are none; None: every one
    is.

    (C, h, w), or (1, h, w) for all bands. What `--nodata` names is unknown, and none of these.
    """
    given = plan.spec.input
    if plan.rules == FIRST or not plan.task.picture:
        pixels = reader.read(box)
        return pixels, empty_samples(given, pixels)
    pixels, valid = reader.read_valid(box)
    if given.positive:
        above = np.asarray(pixels > 0)
        valid = above if valid is None else valid & above
    if valid is None:
        return pixels, None
    empty = ~valid
    return pixels, empty if given.nodata is None else empty & ~equals(pixels, given.nodata)


def empty_samples(given: InputSpec, pixels: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which samples hold nothing by the first rules, of the same shape: the file's nodata
    value, or no finite number; None: none.
    """
    if pixels.dtype.kind == "f":
        empty: NDArray[np.bool_] = ~np.isfinite(pixels)
        if given.nodata == NAN:  # asked for: unknown, not none
            empty &= ~np.isnan(pixels)
        if given.keep_nodata is not None:
            empty |= pixels == pixels.dtype.type(given.keep_nodata)
        return empty
    return None if given.keep_nodata is None else np.equal(pixels, given.keep_nodata)


def stand_in(given: InputSpec, values: Values) -> float:
    """Return the stored value that empty samples are taken for while their surroundings are
    restored.
    """
    if given.keep_nodata is None or math.isnan(given.keep_nodata):
        return values.low
    return min(max(given.keep_nodata, values.low), values.high)


def without_empty(given: InputSpec, values: Values, pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels whose empty samples are replaced by their stand-in."""
    empty = empty_samples(given, pixels)
    return (
        pixels
        if empty is None
        else np.where(empty, pixels.dtype.type(stand_in(given, values)), pixels)
    )
