"""Scores summed up: means over images with their standard errors, as rows and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cluster.evaluation.trials import Score

FIGURES = ("psnr", "ssim", "consistency", "seam")
HEAD = """\
| trial | method | PSNR, dB | SSIM | RMS of A x - y | seam ratio | sd over seeds, dB |
|---|---|---|---|---|---|---|
"""


def summary(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Return means per trial and method, the standard error over images, and the deviation between
    seeds; None for what a single image cannot tell.
    """
    rows = []
    for trial, method in dict.fromkeys((score.trial, score.method) for score in scores):
        group = [score for score in scores if (score.trial, score.method) == (trial, method)]
        row: dict[str, Any] = {"trial": trial, "method": method}
        row["images"] = len({score.image for score in group})
        for figure in FIGURES:
            row.update(_moments(group, figure))
        row["seeds"] = len({score.seed for score in group})
        rows.append({key: None if value != value else value for key, value in row.items()})
    return rows


def _moments(group: Sequence[Score], figure: str) -> dict[str, float]:
    """Return mean, standard error over images and deviation between seeds of one figure."""
    by_image: dict[str, list[float]] = {}
    for score in group:
        by_image.setdefault(score.image, []).append(getattr(score, figure))
    means = np.array([np.mean(values) for values in by_image.values()])
    deviations = [np.std(values) for values in by_image.values()]
    error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return {
        figure: float(means.mean()),
        f"{figure}_se": float(error),
        f"{figure}_seed_sd": float(np.mean(deviations)),
    }


def table(scores: Sequence[Score], known: Mapping[str, str]) -> str:
    """Return the table as Markdown; known: of each prior, what is known of its training images."""
    lines = [_line(row) for row in summary(scores)]
    notes = [f"- {name}: {text}.\n" for name, text in known.items()]
    return f"{HEAD}{''.join(lines)}\nMean over images and its standard error.\n{''.join(notes)}"


def _line(row: Mapping[str, Any]) -> str:
    if row["seeds"] > 1:
        deviation = f"{row['psnr_seed_sd']:.3f} of {row['seeds']}"
    else:
        deviation = "nothing random"
    cells = (
        row["trial"],
        row["method"],
        _with_error(row, "psnr", 2),
        _with_error(row, "ssim", 4),
        f"{row['consistency']:.2f}",
        f"{row['seam']:.2f}",
        deviation,
    )
    return f"| {' | '.join(cells)} |\n"


def _with_error(row: Mapping[str, Any], figure: str, digits: int) -> str:
    mean = f"{row[figure]:.{digits}f}"
    error = row[f"{figure}_se"]
    return mean if error is None else f"{mean} ± {error:.{digits}f}"
