"""What a look at samples of a value that marks unknown ones says of how they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.known_nearby import scattered_share
from orchestrator.job.fields.sections import InputSpec
from orchestrator.measurement.input_file import equals, open_file
from orchestrator.measurement.range_survey import windows_along
from orchestrator.measurement.value_statistics import spread_windows
from storage.image import ImageInfo


@dataclass(frozen=True, slots=True)
class MarkedLook:
    """What spread windows show of the samples that `--nodata` marks."""

    scatter: float | None
    """How scattered the known ones are (kernels.known_nearby.scattered_share)."""
    marked: int
    """Marked samples that were seen."""
    everywhere: bool
    """Whether all of the image was looked at."""


def look_at_marked(given: InputSpec, info: ImageInfo) -> MarkedLook:
    """Look at the samples that `--nodata` marks, in spread windows of the chosen part."""
    assert given.nodata is not None, "a value marks the unknown samples"
    y0, x0, y1, x1 = given.crop or (0, 0, info.height, info.width)
    boxes = spread_windows(y1 - y0, x1 - x0, windows_along(info))
    reader = open_file(given)
    marked = 0

    def known_windows() -> Iterator[NDArray[np.bool_]]:
        nonlocal marked
        for box in boxes:
            unknown = equals(reader.read(box.shift(y0, x0)), given.nodata or 0)
            marked += int(unknown.sum())
            yield ~unknown

    try:
        scatter = scattered_share(known_windows())
    finally:
        reader.close()
    seen = sum(box.height * box.width for box in boxes)
    return MarkedLook(scatter, marked, everywhere=seen == (y1 - y0) * (x1 - x0))
