"""Ask before the first tile whether the prior knows such images at all, and keep the answer with
the run.

The residual of the prior (kernels.denoisers.domain_statistics) on a few windows of the measurement
itself, pooled until its noise matters little, is compared with what the prior's file says of
pictures that it knows. A function of input and weights alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from kernels.denoisers.prior_metadata import domain_statistics
from orchestrator.arrays import Array
from orchestrator.events import DomainChecked
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.plan import Plan
from orchestrator.measurement.measurement_reader import level_measured
from orchestrator.measurement.windows import MeasuredWindow, to_channels
from orchestrator.run_folder import RunDir
from storage import atomic_files

# Windows lie at these shares of height and width, and so many groups of bands of each are looked
# at.
PLACES = [(y, x) for y in (0.25, 0.75) for x in (1 / 6, 0.5, 5 / 6)]
GROUPS = 3
# The measurement's own noise must not look like something unknown: pooled until below this, [-1, 1]
# range.
QUIET = 0.05
LARGEST_POOL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainCheck:
    """Compare the prior's residual on an input with that on pictures that it knows; in units of the
    noise added.
    """

    residual: float
    known: float
    """Mean over the prior's validation pictures."""
    limit: float
    """Above it the prior is said not to know such images."""

    @property
    def far(self) -> bool:
        return self.residual > self.limit

    def as_dict(self) -> dict[str, float | bool]:
        return {**asdict(self), "far": self.far}

    def event(self) -> DomainChecked:
        return DomainChecked(
            residual=self.residual, known=self.known, limit=self.limit, far=self.far
        )


def check_domain(run: RunDir, plan: Plan) -> DomainCheck | None:
    """Return the comparison, from the run's folder where it was made before; None where nothing can
    be compared.

    That is for generation, for measurements that are no pictures, and for denoisers without
    statistics.
    """
    if (kept := read_domain(run)) is not None:
        return kept
    statistics = None
    if plan.task.measured and plan.task.picture:
        statistics = domain_statistics(plan.spec.denoiser)
    if statistics is None:
        return None
    from kernels.denoisers.domain_statistics import residual_of  # imports torch

    residual = round(residual_of(plan.spec.denoiser, list(probe(run, plan))), 3)
    limit = round(statistics.limit, 3)
    check = DomainCheck(residual=residual, known=statistics.mean, limit=limit)
    atomic_files.replace_text(run.domain, json.dumps(asdict(check)), fsync=False)
    return check


def read_domain(run: RunDir) -> DomainCheck | None:
    """Return the comparison that a run has made; None where it has made none."""
    return (
        DomainCheck(**json.loads(run.domain.read_text(encoding="utf-8")))
        if run.domain.exists()
        else None
    )


def probe(run: RunDir, plan: Plan) -> Iterator[Array]:
    """Yield windows (C, side, side) of the measurement as the network would see it, a few whatever
    the image's size.
    """
    from kernels.denoisers.domain_statistics import SIDE  # imports torch

    measured = level_measured(run, plan, plan.levels[0])
    assert measured is not None, "a measured task has a measurement"
    pool = 2 if plan.task.masked else 1
    while plan.levels[0].sigma_y / pool > QUIET and pool < LARGEST_POOL:
        pool *= 2
    for y, x in PLACES:
        picture = _pooled(
            measured, round(y * measured.height), round(x * measured.width), SIDE, pool
        )
        if plan.rules != FIRST:
            # Single samples far outside of black and white say nothing of the picture's kind.
            picture = picture.clip(-1.0, 1.0)
        yield from plan.bands.split(to_channels(picture, plan.bands.stored))[:GROUPS]


def _pooled(measured: MeasuredWindow, y: int, x: int, side: int, pool: int) -> Array:
    """Return the averages of the known pixels of pool x pool cells around (y, x), unknown cells
    filled.
    """
    y0 = y - side * pool // 2
    x0 = x - side * pool // 2
    from kernels.resample import fill_unknown  # imports torch

    window = measured.read(y0, x0, y0 + side * pool, x0 + side * pool)
    cells = window.reshape(len(window), side, pool, side, pool)
    known = np.isfinite(cells).sum(axis=(2, 4))
    sums = np.nansum(cells, axis=(2, 4), dtype=np.float64)
    mean = np.where(known > 0, sums / np.maximum(known, 1), np.nan)
    return fill_unknown(mean.astype(np.float32))
