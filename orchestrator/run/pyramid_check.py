"""Whether every object of an image is there, and its coarser levels are means of the finer ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.plan import Plan
from orchestrator.measurement.block_lattice import spread_windows
from orchestrator.run_folder import RunDir
from storage.errors import FormatError
from storage.image_metadata import VALIDITY
from storage.publishing.pyramid_writer import Publication
from storage.readers.reader_registry import open_image
from storage.zarr_format.shard import PyramidLevel as StoredLevel
from storage.zarr_format.zarr_json import ZARR_JSON, object_key


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidCounts:
    """What is missing of an image, and what of its coarser levels is wrong."""

    levels: int
    missing: int
    """Objects and metadata files of all levels."""
    compared: int
    """Samples of coarser levels that were compared with the means of the finer level."""
    wrong: int
    """Of these, the ones that differ."""

    @property
    def sound(self) -> bool:
        return self.missing == self.wrong == 0


def check_pyramid(run: RunDir, plan: Plan, levels: list[StoredLevel]) -> PyramidCounts:
    """Look for every object, and compare levels in windows spread over each.

    Level 0 is not compared with anything: it is what all other checks read.
    """
    masked = plan.spec.input.keep_mask is not None
    missing = sum(not path.is_file() for path in _objects(run.root, levels, masked=masked))
    compared = 0
    wrong = 0
    if not missing:
        writer = Publication(
            run.root,
            tuple(levels),
            open_image(run.root).info.nodata,
            only_finite=plan.rules != FIRST,
            masked=masked,
        )
        for number in range(1, len(levels)):
            seen, different = _compare(run.root, number, writer)
            compared += seen
            wrong += different
    return PyramidCounts(levels=len(levels), missing=missing, compared=compared, wrong=wrong)


def _objects(root: Path, levels: list[StoredLevel], *, masked: bool) -> Iterator[Path]:
    """Yield the files of all levels; masked: and of the image that says which samples are valid."""
    for image in [root, root / VALIDITY] if masked else [root]:
        for number, level in enumerate(levels):
            folder = image / str(number)
            yield folder / ZARR_JSON
            for place in level.places():
                yield folder / object_key(*place)


def _compare(root: Path, number: int, writer: Publication) -> tuple[int, int]:
    """Return how many samples of a level were compared, and how many are not the finer means."""
    compared = 0
    wrong = 0
    try:
        coarse = open_image(root, level=number)
        fine = open_image(root, level=number - 1)
        for box in spread_windows(coarse.info.height, coarse.info.width):
            under = box.scale(2).clip(fine.info.height, fine.info.width)
            pixels, valid = fine.read_valid(under)
            wanted = writer.halved(pixels, None if writer.validity is None else valid)
            found = coarse.read(box)
            compared += found.size
            same = (found == wanted) | (_no_number(found) & _no_number(wanted))
            wrong += int((~same).sum())
    except FormatError:  # what cannot be read is no mean of anything
        return compared + 1, wrong + 1
    return compared, wrong


def _no_number(pixels: np.ndarray) -> np.ndarray:
    return np.isnan(pixels) if pixels.dtype.kind == "f" else np.zeros(pixels.shape, bool)
