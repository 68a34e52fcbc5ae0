"""What a look at samples of a value that marks unknown ones says of how they lie."""

from __future__ import annotations

from kernels.known_nearby import scattered_share
from orchestrator.job.fields.sections import InputSpec
from orchestrator.measurement.input_file import equals, open_file
from orchestrator.measurement.range_survey import windows_along
from orchestrator.measurement.value_statistics import spread_windows
from storage.image import ImageInfo


def marked_scatter(given: InputSpec, info: ImageInfo) -> float | None:
    """Return how scattered the samples are that `--nodata` leaves known, in spread windows.

    See kernels.known_nearby.scattered_share; None where no window has an unknown sample.
    """
    assert given.nodata is not None, "a value marks the unknown samples"
    y0, x0, y1, x1 = given.crop or (0, 0, info.height, info.width)
    reader = open_file(given)
    try:
        boxes = spread_windows(y1 - y0, x1 - x0, windows_along(info))
        windows = (reader.read(box.shift(y0, x0)) for box in boxes)
        return scattered_share(~equals(pixels, given.nodata) for pixels in windows)
    finally:
        reader.close()
