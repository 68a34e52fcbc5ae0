"""What a mask means: white is known, black is a hole, and what lies between is a hole too.

Masks come as 0 and 255, as 0 and 1, painted with soft brushes, saved as JPEG, or the other way
round. One reading serves them all: a sample is known from seven eighths of white. Black that JPEG
made a little grey is a hole, and so is a soft edge, where what was painted over shows through; a
known pixel that is invented anew does less harm than a black one that is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.known_nearby import scattered_share
from orchestrator.errors import PlanError
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.fields.sections import InputSpec
from orchestrator.job.inputs import MaskSurvey
from orchestrator.job.plan import Plan
from orchestrator.measurement.value_statistics import spread_windows
from orchestrator.run_folder import RunDir
from storage.box import Box
from storage.image import Reader
from storage.readers.reader_registry import open_image

KNOWN_FROM = 7 / 8
"""Share of white from which a sample of a mask is known."""
MOST_BETWEEN = 0.25
"""Share of samples that may be neither black nor white: a picture has more, a soft brush less."""


def white_of(dtype: np.dtype[Any], most: float) -> float:
    """Return the value that is white in a mask of this dtype whose largest sample is `most`.

    0 and 1 (labels, bits) have 1 as white and 0 to 255 has 255, whatever the dtype; floats have
    their largest value.
    """
    if most <= 1 or dtype.kind == "b":
        return 1.0
    if dtype.kind not in "ui":
        return most
    return float(np.iinfo(dtype).max) if most > 255 else 255.0


def mask_known(given: InputSpec, rules: int, samples: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which samples of a window of the mask are known, (1, h, w)."""
    first = samples[:1]
    if rules == FIRST:
        return np.asarray(first != 0)
    white = given.mask_white or 1.0
    share = first.astype(np.float64) / white
    if given.mask_holes == "white":
        return np.asarray(share <= 1 - KNOWN_FROM)
    return np.asarray(share >= KNOWN_FROM)


def known_by_mask(plan: Plan, samples: NDArray[Any], scale: int = 1) -> NDArray[np.bool_]:
    """Return which cells of scale x scale samples of a mask have a known one, (1, h, w)."""
    known = mask_known(plan.spec.input, plan.rules, samples)
    if scale == 1:
        return known
    height = known.shape[1] // scale
    width = known.shape[2] // scale
    cells = known.reshape(1, height, scale, width, scale)
    return np.asarray(cells.any(axis=(2, 4)))


def open_mask(run: RunDir, plan: Plan) -> Reader | None:
    """Open the mask, its staged copy where there is one; None without a mask."""
    if plan.spec.input.mask is None:
        return None
    return open_image(run.staged_mask if run.staged_mask.exists() else plan.spec.input.mask)


def survey_mask(path: str, holes: str | None) -> MaskSurvey:
    """Look at a mask, all of a small one and spread windows of a large one.

    Raises PlanError for one that is no mask, or by which everything or nothing is known.
    """
    mask = open_image(path)
    try:
        height = mask.info.height
        width = mask.info.width
        boxes = spread_windows(height, width)
        parts = [mask.read(box)[0] for box in boxes]
    finally:
        mask.close()
    most = max(float(part.max(initial=0)) for part in parts)
    white = white_of(parts[0].dtype, most)
    given = InputSpec(mask_white=white, mask_holes="white" if holes == "white" else None)
    known = [mask_known(given, 0, part[None])[0] for part in parts]
    seen = sum(part.size for part in parts)
    whole = seen == height * width
    survey = MaskSurvey(
        white=white,
        known=sum(int(part.sum()) for part in known) / seen,
        between=_between(parts, white) / seen,
        holes=_count_holes(~_assembled(boxes, known, height, width)) if whole else None,
        scatter=scattered_share([part[None] for part in known]),
    )
    _check(path, survey, holes or "black")
    return survey


def _between(parts: list[NDArray[Any]], white: float) -> int:
    """Count the samples that are neither black nor white by an eighth."""
    shares = (part.astype(np.float64) / white for part in parts)
    return sum(int(((s > 1 - KNOWN_FROM) & (s < KNOWN_FROM)).sum()) for s in shares)


def _check(path: str, survey: MaskSurvey, holes: str) -> None:
    other = "white" if holes == "black" else "black"
    if survey.between > MOST_BETWEEN:
        raise PlanError(
            f"--mask {path}: {survey.between:.0%} of its samples are neither black nor white, "
            f"at most {MOST_BETWEEN:.0%} may be; give a mask of two values"
        )
    if survey.known == 1 and survey.holes is not None:
        raise PlanError(
            f"--mask {path}: everything is known ({holes} means unknown), nothing is left to do; "
            f"give --mask-holes {other}, or a mask with holes"
        )
    if survey.known == 0:
        raise PlanError(
            f"--mask {path}: nothing is known ({holes} means unknown); "
            f"give --mask-holes {other}, or --task generate for a picture without measurement"
        )


def _assembled(
    boxes: list[Box], parts: list[NDArray[np.bool_]], height: int, width: int
) -> NDArray[np.bool_]:
    image = np.zeros((height, width), bool)
    for box, part in zip(boxes, parts, strict=True):
        image[box.slices()] = part
    return image


def _count_holes(unknown: NDArray[np.bool_]) -> int:
    """Count the connected parts (by sides) of the unknown pixels of an image, run by run."""
    roots: list[int] = []

    def root(i: int) -> int:
        while roots[i] != i:
            roots[i] = roots[roots[i]]
            i = roots[i]
        return i

    above: list[tuple[int, int, int]] = []
    for row in unknown:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        runs = []
        first = 0
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            label = len(roots)
            roots.append(label)
            while first < len(above) and above[first][1] <= begin:
                first += 1
            touching = first
            while touching < len(above) and above[touching][0] < end:
                roots[root(above[touching][2])] = root(label)
                touching += 1
            runs.append((begin, end, label))
        above = runs
    return sum(root(i) == i for i in range(len(roots)))
