"""Black and white of an input: what the user gives, else what the file declares, else what its
samples say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PlanError
from orchestrator.job.fields.pixel_rules import CURRENT, FIRST
from orchestrator.job.fields.sections import FULL, Ends, InputSpec, Range
from orchestrator.job.inputs import GIVEN, RangeSurvey
from orchestrator.job.value_range import LIMITS, UNSIGNED, Values, of_each_band, stated_values
from orchestrator.measurement.input_file import equals, open_file
from orchestrator.measurement.mask_reading import mask_known
from orchestrator.measurement.value_statistics import (
    WINDOWS,
    BandLook,
    Stored,
    fitted_range,
    look_at,
    of_all_bands,
    share_within,
    spread_windows,
    valid_samples,
)
from storage.box import Box
from storage.image import ITEMSIZE, ImageInfo, Reader
from storage.readers.cache import CachedReader
from storage.readers.reader_registry import open_image

# Samples that use less of a declared range than this get one that is fitted to them.
LEAST_USE = 1 / 3
# A given range of which the samples use less than this is worth a warning.
WARN_USE = 1 / 10
# Decoded bytes of a look at most, where a file has very large tiles or chunks.
MOST_BYTES = 1 << 30
FEWEST_WINDOWS = 3
# Least black of samples whose logarithms are restored.
ABOVE_ZERO = 1e-30


def survey_range(
    given: InputSpec, info: ImageInfo, rules: int, *, apart: bool = False
) -> RangeSurvey:
    """Return black and white of an input, and what they were taken from.

    given: with nodata and mask resolved. apart: bands that differ much may have a range of their
    own. Only a range that is to be found or checked costs a look at the samples. Raises PlanError
    for a range that the dtype cannot have.
    """
    if rules == FIRST or given.values == FULL or (given.values is None and info.dtype == "uint8"):
        return _without_look(given, info)
    values = stated_values(given.values)
    if values is not None:
        Values.build(info.dtype, values, count=info.channels)
    bands = _look(given, info)
    if values is not None:
        return RangeSurvey(values, GIVEN, _warning(values, bands, info))
    looks = [look_at(band) for band in bands]
    seen = [look for look in looks if look is not None]
    if given.positive and seen:
        return _found_above_zero(of_all_bands(seen), info)
    return _found(looks, info, apart=apart and not info.colour)


def _without_look(given: InputSpec, info: ImageInfo) -> RangeSurvey:
    """Return the range as given, or as a file of fewer bits than its dtype states it."""
    if (values := stated_values(given.values)) is not None:
        return RangeSurvey(values, GIVEN)
    if info.dtype not in UNSIGNED:
        raise PlanError(
            f"{info.path}: {info.dtype} values have no black and white of their own; say which "
            "they are: --range LOW,HIGH, or have them fitted: --range auto"
        )
    declared = info.limits if given.values is None else None
    if declared is None or declared == LIMITS[info.dtype]:
        return RangeSurvey(None, f"all of {info.dtype}")
    return RangeSurvey(declared, f"{info.bits} bits per sample")


def _found(looks: list[BandLook | None], info: ImageInfo, *, apart: bool) -> RangeSurvey:
    """Return a declared range where the samples use it, else one that is fitted to them; of each
    band where some use little of what all of them use.
    """
    seen = [look for look in looks if look is not None]
    if not seen:
        return _of_nothing(info)
    whole = _of_all(seen, info)
    image = of_each_band(whole.values or LIMITS[info.dtype])[0]
    joint = of_all_bands(seen).used
    if not apart or all(_suits_all(look, joint) for look in seen):
        return whole
    stated = info.stated or (None,) * len(looks)
    each = zip(looks, stated, strict=True)
    own = tuple(
        image if look is None or _suits_all(look, joint) else _of_band(look, ends, info)
        for look, ends in each
    )
    source = "of each band: some use little of the others' range"
    return RangeSurvey(own, source, _unlike(of_all_bands(seen)))


def _suits_all(look: BandLook, joint: Ends) -> bool:
    """Tell whether the range of all bands is that of one of them: it uses enough of it, or is of
    one value, which says nothing of what it may hold elsewhere.
    """
    return _uses(look.used, joint) or look.used[0] == look.used[1]


def _of_nothing(info: ImageInfo) -> RangeSurvey:
    declared = info.limits or (LIMITS[info.dtype] if info.dtype in UNSIGNED else (0.0, 1.0))
    return RangeSurvey(_numbers(declared, info), "no sample holds data")


def _of_all(looks: list[BandLook], info: ImageInfo) -> RangeSurvey:
    """Return one range for all bands."""
    joint = of_all_bands(looks)
    for declared, name in _declared(info):
        if _suits(declared, joint.used):
            return RangeSurvey(_numbers(declared, info), name)
    low, high = joint.used
    if low == high and info.dtype in UNSIGNED:
        # Nothing was seen of what the image may hold elsewhere.
        return RangeSurvey(_of_nothing(info).values, f"all samples that were seen are {low:g}")
    found = f"fitted to the samples, which lie between {low:g} and {high:g}"
    return RangeSurvey(_fitted(joint, info), found, _unlike(joint))


def _unlike(look: BandLook) -> str | None:
    """Say which values have had no say, and what may be meant by them."""
    if not look.apart:
        return None
    named = " and ".join(f"{value:g}" for value in look.apart)
    return (
        f"many samples are {named}, far from all others, and had no say in the range; "
        "if that stands for no data, state it in the file (gdal_edit.py -a_nodata)"
    )


def _declared(info: ImageInfo) -> Iterator[tuple[Ends, str]]:
    """Yield the ranges that a file states, the one that says most of its samples first."""
    if info.stated:
        low = min(low for low, _ in info.stated)
        high = max(high for _, high in info.stated)
        yield _storable((low, high), info), info.stated_by
    if info.dtype in UNSIGNED:
        limits = LIMITS[info.dtype]
        if info.limits is not None and info.limits != limits:
            yield info.limits, f"{info.bits} bits per sample"
        yield limits, f"all of {info.dtype}"


def _of_band(look: BandLook, stated: Ends | None, info: ImageInfo) -> Ends:
    """Return the range of a band that has its own."""
    if stated is not None and _suits(_storable(stated, info), look.used):
        return _storable(stated, info)
    return _fitted(look, info)


def _storable(stated: Ends, info: ImageInfo) -> Ends:
    """Return the part of a stated range that the dtype can store."""
    least, most = LIMITS[info.dtype]
    return max(stated[0], least), min(stated[1], most)


def _numbers(values: Ends, info: ImageInfo) -> Ends | None:
    """Return a range, or None for all of an unsigned dtype."""
    return None if info.dtype in UNSIGNED and values == LIMITS[info.dtype] else values


def _found_above_zero(look: BandLook, info: ImageInfo) -> RangeSurvey:
    """Return the range of samples whose logarithms are restored, with headroom in those."""
    limits = (math.log(ABOVE_ZERO), math.log(LIMITS[info.dtype][1]))
    used = look.used
    logarithms = BandLook(
        used=(math.log(used[0]), math.log(used[1])),
        ends=(math.log(look.ends[0]), math.log(look.ends[1])),
    )
    logs = fitted_range(logarithms, limits, whole=False)
    low, high = map(math.exp, logs)
    if info.dtype != "float32":
        low = max(math.floor(low), 1.0)
        high = min(math.ceil(high), LIMITS[info.dtype][1])
    seen = f"fitted to the samples above 0, which lie between {used[0]:g} and {used[1]:g}"
    return RangeSurvey((low, high), seen, _unlike(look))


def _suits(declared: Ends, used: Ends) -> bool:
    """Tell whether samples lie within a declared range and use enough of it."""
    return declared[0] <= used[0] and used[1] <= declared[1] and _uses(used, declared)


def _uses(used: Ends, values: Ends) -> bool:
    """Tell whether samples use enough of a range."""
    return used[1] - used[0] >= LEAST_USE * (values[1] - values[0])


def _fitted(look: BandLook, info: ImageInfo) -> Ends:
    return fitted_range(look, LIMITS[info.dtype], whole=info.dtype != "float32")


def _warning(values: Range, bands: list[Stored], info: ImageInfo) -> str | None:
    """Say why a range that was given does not suit the samples, and which one does."""
    each = of_each_band(values)
    if len(each) == 1:
        return _misfit(each[0], bands, "", info)
    found = (
        _misfit(ends, [band], f" of band {number}", info)
        for number, (ends, band) in enumerate(zip(each, bands, strict=True), 1)
    )
    return next((text for text in found if text is not None), None)


def _misfit(values: Ends, bands: list[Stored], name: str, info: ImageInfo) -> str | None:
    looks = [look for look in map(look_at, bands) if look is not None]
    if not looks:
        return None
    look = of_all_bands(looks)
    used = look.used
    better = _fitted(look, info)
    hint = f"--range {better[0]:g},{better[1]:g} or --range auto suits them better"
    shown = f"--range {values[0]:g},{values[1]:g}"
    outside = 1 - share_within(bands, values)
    if outside > 1 / 2:
        return f"{outside:.0%} of the samples{name} lie outside of {shown}: {hint}"
    share = (min(used[1], values[1]) - max(used[0], values[0])) / (values[1] - values[0])
    if share < WARN_USE:
        return f"the samples{name} use {max(share, 0):.1%} of {shown}: {hint}"
    return None


def _look(given: InputSpec, info: ImageInfo) -> list[Stored]:
    """Return the valid samples of spread windows, band by band."""
    y0, x0, y1, x1 = given.crop or (0, 0, info.height, info.width)
    reader = CachedReader(open_file(given))
    mask = None if given.mask is None else open_image(given.mask)

    def read(box: Box) -> tuple[Stored, NDArray[np.bool_]]:
        stored, valid = reader.read_valid(box)
        known = (
            np.ones(stored.shape, bool) if valid is None else np.broadcast_to(valid, stored.shape)
        )
        if given.nodata is not None:
            known = known & ~equals(stored, given.nodata)
        if given.positive:
            known = known & (stored > 0)
        return stored, known if mask is None else known & _by_mask(given, mask, box, info)

    boxes = spread_windows(y1 - y0, x1 - x0, windows_along(info))
    try:
        return valid_samples(read, [box.shift(y0, x0) for box in boxes])
    finally:
        reader.close()
        if mask is not None:
            mask.close()


def _by_mask(given: InputSpec, mask: Reader, box: Box, info: ImageInfo) -> NDArray[np.bool_]:
    """Return which samples of a window a mask calls known, any pixel of a cell, (1, h, w)."""
    scale = mask.info.height // info.height
    marks = mask_known(given, CURRENT, mask.read(box.scale(scale)))
    cells = marks.reshape(1, box.height, scale, box.width, scale)
    return np.asarray(cells.any(axis=(2, 4)))


def windows_along(info: ImageInfo) -> int:
    """Return how many windows along a side a look has: fewer where each decodes a large tile."""
    if info.grain is None:
        return WINDOWS
    tile = info.grain[0] * info.grain[1] * info.channels * ITEMSIZE[info.dtype]
    affordable = math.isqrt(max(MOST_BYTES // tile, 1))
    return min(WINDOWS, max(affordable, FEWEST_WINDOWS))
