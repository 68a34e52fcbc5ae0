"""One's own images as a source of training crops: any size, read by windows; what is validated on
is never trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.resample import fill_unknown
from kernels.training.near_duplicates import SIDE, Hashes, smallest_hashes, window_hashes
from orchestrator.errors import PlanError
from orchestrator.job.bands import Bands
from orchestrator.job.fields.pixel_rules import CURRENT
from orchestrator.job.fields.sections import InputSpec, Range
from orchestrator.job.value_range import Values
from orchestrator.measurement.range_survey import survey_range
from orchestrator.planning.fingerprint import content_hash
from storage.box import Box
from storage.image import ImageInfo, Reader
from storage.readers.reader_registry import inspect, open_image
from storage.readers.staging import stage

Unit = NDArray[np.float32]

# Share of the images (of a single one: of its length) that validates.
HELD_OUT = 0.2
# A crop is drawn again, at most so often, while it varies by less than this: scans are mostly empty
# glass.
FLAT = 0.1
TRIES = 4
LEAST_SIDE = 16
# Pixels along a side of the windows whose hashes are looked for.
WINDOW = 1024
# Hashes kept of all images together; below it all of an image's, about one in 4096 px.
MOST_HASHES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image, readable by windows."""

    path: Path
    content: str
    """Hash of the file."""
    reader: Reader
    values: Values
    bands: Bands

    def read(self, box: Box, group: int) -> Unit:
        """Return a window (C, h, w) in [-1, 1] as the network sees it: one group of the image's
        bands. Samples without data are filled from what is near.
        """
        pixels, valid = self.reader.read_valid(box)
        picture = self.values.to_unit(pixels)
        if valid is not None and not valid.all():
            picture = fill_unknown(np.where(valid, picture, np.float32(np.nan)))
        return self.bands.split(picture)[group]

    def describe(self) -> dict[str, Any]:
        """Return what a model card says of the image."""
        info = self.reader.info
        return {
            "name": self.path.name,
            "content": self.content,
            "shape": list(info.shape),
            "dtype": info.dtype,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A part of an image."""

    picture: Picture
    box: Box


class Areas:
    """Random crops of parts of images, every pixel as likely as any other; a
    `kernels.training.recipe.CropSource`.
    """

    def __init__(self, areas: Sequence[Area]) -> None:
        self.areas = list(areas)
        self._ends = np.cumsum([area.box.area for area in self.areas])

    def crop(self, rng: np.random.Generator, visible: int, side: int) -> Unit:
        """Return a crop (C, side, side) in [-1, 1]; a quarter of them show twice the width, where
        there is room.

        Smaller areas are continued by reflection. visible has no meaning here: everything is there
        from the start.
        """
        for _ in range(TRIES):
            crop = self._crop(rng, side)
            if np.ptp(crop) >= FLAT:
                break
        return crop

    def _crop(self, rng: np.random.Generator, side: int) -> Unit:
        area = self.areas[
            int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))
        ]
        box = area.box
        groups = len(area.picture.bands.groups)
        halve = bool(rng.random() < 0.25) and 2 * side <= min(box.shape)
        span = 2 * side if halve else side
        y, x = (int(rng.integers(max(length - span, 0) + 1)) for length in box.shape)
        place = Box(
            box.y0 + y, box.x0 + x, min(box.y0 + y + span, box.y1), min(box.x0 + x + span, box.x1)
        )
        cut = area.picture.read(place, int(rng.integers(groups)))
        short = [(0, 0), (0, span - place.height), (0, span - place.width)]
        cut = np.pad(cut, short, mode="symmetric") if place.area < span * span else cut
        if not halve:
            return cut
        mean: Unit = cut.reshape(len(cut), side, 2, side, 2).mean((2, 4), dtype=np.float32)
        return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingImages:
    """All images of a training, split."""

    pictures: tuple[Picture, ...]
    train: Areas
    validation: Areas
    split: str
    """How they were split, for people."""

    @property
    def channels(self) -> int:
        """Channels that the network is to have."""
        return self.pictures[0].bands.channels

    def hashes(self) -> Hashes:
        """Return window hashes (kernels.training.near_duplicates) of all images."""
        return smallest_hashes(
            (image_hashes(picture.reader) for picture in self.pictures), MOST_HASHES
        )


def image_hashes(reader: Reader) -> Hashes:
    """Return the window hashes of an image, read window by window."""
    height = reader.info.height
    width = reader.info.width
    corners = itertools.product(range(0, height, WINDOW), range(0, width, WINDOW))
    boxes = (
        Box(y, x, y + WINDOW + SIDE - 1, x + WINDOW + SIDE - 1).clip(height, width)
        for y, x in corners
    )
    # In pieces, so that the list does not grow with the image.
    kept: Hashes = np.zeros(0, np.uint64)
    for box in boxes:
        kept = smallest_hashes((kept, window_hashes(reader.read(box))), MOST_HASHES)
    return kept


def open_training_images(
    paths: Sequence[Path],
    work: Path,
    seed: int,
    channels: int | None,
    limits: Range | str | None,
) -> TrainingImages:
    """Open and split images; what cannot be read by windows is staged under `work` once.

    channels: of the network, to which each image's bands are matched as `restore` does; None: those
    of the images, which then must agree. limits: stored values of black and white, found as
    `restore` finds them where they are not given. Raises PlanError or FormatError on one line.
    """
    infos = [inspect(path) for path in paths]
    counts = sorted({info.channels for info in infos})
    if channels is None and len(counts) > 1:
        raise PlanError(
            f"the images have {counts[0]} and {counts[-1]} bands; a network of its own needs one "
            "number"
        )
    pictures: dict[str, Picture] = {}
    for path, info in zip(paths, infos, strict=True):
        if min(info.height, info.width) < LEAST_SIDE:
            raise PlanError(
                f"{path} is {info.height}x{info.width} px; training needs {LEAST_SIDE} px a side "
                "or more"
            )
        content = content_hash(path)
        if content in pictures:
            raise PlanError(
                f"{path} is the same image as {pictures[content].path}; name every image once"
            )
        pictures[content] = Picture(
            path=path,
            content=content,
            reader=open_image(path if info.lazy else _staged(path, work / f"{content}.zarr")),
            values=_values(path, info, limits),
            bands=Bands.build(info.channels, channels or info.channels),
        )
    train, validation, split = _split(list(pictures.values()), seed)
    return TrainingImages(
        pictures=tuple(pictures.values()),
        train=Areas(train),
        validation=Areas(validation),
        split=split,
    )


def _values(path: Path, info: ImageInfo, limits: Range | str | None) -> Values:
    """Return which values of an image are black and white, as `restore` shows it to a network."""
    given = InputSpec.model_validate({"path": str(path), "values": limits})
    survey = survey_range(given, info, CURRENT, apart=True)
    return Values.build(info.dtype, survey.values, count=info.channels)


def _staged(path: Path, dest: Path) -> Path:
    stage(path, dest)
    return dest


def _split(pictures: list[Picture], seed: int) -> tuple[list[Area], list[Area], str]:
    """Return what trains, what validates, and how that was decided; the same files and seed give
    the same split.
    """
    whole = [Area(picture=picture, box=picture.reader.info.box) for picture in pictures]
    if len(whole) > 1:
        order = np.random.default_rng([seed, 3]).permutation(len(whole))
        count = max(1, round(HELD_OUT * len(whole)))
        validation = [whole[i] for i in sorted(order[:count])]
        names = ", ".join(area.picture.path.name for area in validation[:5]) + (
            ", ..." if count > 5 else ""
        )
        return (
            [whole[i] for i in sorted(order[count:])],
            validation,
            f"by image, {count} of {len(whole)}: {names}",
        )
    (only,) = whole
    height, width = only.box.shape
    cut = round((1 - HELD_OUT) * max(height, width))
    if max(height, width) - cut < LEAST_SIDE:
        raise PlanError(
            f"{only.picture.path} is {height}x{width} px, too small to validate on a part of it; "
            "give a second image"
        )
    if height >= width:
        parts = (Box(0, 0, cut, width), Box(cut, 0, height, width))
        what = f"rows {cut} to {height}"
    else:
        parts = (Box(0, 0, height, cut), Box(0, cut, height, width))
        what = f"columns {cut} to {width}"
    train, held = (Area(picture=only.picture, box=box) for box in parts)
    return (
        [train],
        [held],
        f"one image, by disjoint areas: {what} validate (a second image would tell more)",
    )
