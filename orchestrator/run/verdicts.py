"""The verdicts of `verify`: a line for each thing that can be wrong with an output, its limit."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.metrics import Consistency
from kernels.seams import SeamReport
from orchestrator.measurement.validity_check import ValidityCounts
from orchestrator.measurement.value_use import ValuesOfBoth
from orchestrator.run.pyramid_check import PyramidCounts

# float64 averages of integers are exact to far below this.
EXACT = 1e-9
# Share of the samples that may be at black or white beyond those that are near them in the input:
# restoring contrast takes some there.
MOST_CUT = 0.10
# How much of the range an output may use, in proportion to its input. Averages take little from the
# spread of a picture, and noise adds to that of the input.
LEAST_USED = 0.25
MOST_USED = 4.0
# Share of the values of a noisy measurement that its noise need not explain: with a brightness that
# is two deviations wrong it is 16 %.
MOST_FAR = 0.10
# Share of the range by which it may use less or more in any case.
FLAT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One thing that was checked."""

    name: str
    passed: bool
    value: float
    limit: float | None
    """What the value may reach, at most; None: it is only told."""
    says: str
    """In words, with value and limit."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How far A x may be from y, grey levels."""

    everywhere: float
    beside: float
    """Where overlapping measurements see black or white."""


def pyramid_checks(found: PyramidCounts) -> tuple[Verdict, ...]:
    """Return whether everything is there, and whether coarser levels belong to it."""
    there = Verdict(
        name="complete",
        passed=found.missing == 0,
        value=found.missing,
        limit=0,
        says=f"{found.missing:,} objects of {found.levels} levels are missing",
    )
    if found.levels == 1:
        return (there,)
    pooled = Verdict(
        name="pyramid",
        passed=found.wrong == 0,
        value=found.wrong,
        limit=0,
        says=f"{found.wrong:,} of {found.compared:,} samples of coarser levels are not the means "
        "of the finer ones",
    )
    return there, pooled


def consistency_check(found: Consistency, limit: Limit, *, noisy: bool) -> Verdict:
    """Return whether A x = y holds to the rounding of the stored dtype.

    Under the first pixel rules values with a clipped pixel are apart, unless all are such: they
    must hold then, or nothing is shown.
    """
    if found.cells == 0 and found.clipped > 0:
        return _all_clipped(found, limit, noisy=noisy)
    elsewhere = found.elsewhere_max if found.beside else found.max
    holds = elsewhere <= limit.everywhere + EXACT and found.beside_max <= limit.beside + EXACT
    size = f"max {found.max:.3f}, RMS {found.rms:.3f} grey levels"
    says = f"|A x - y| {size} over {found.cells:,} values"
    if found.beside and found.beside_max > elsewhere:
        says += f"; {elsewhere:.3f} away from black and white"
    if found.clipped:
        says += f"; {found.clipped:,} more with clipped pixels, max {found.clipped_max:.3f}"
    if noisy:
        return _noisy_check(found, says)
    bound = limit.beside if found.beside else limit.everywhere
    says += f" (limit {limit.everywhere:.2f}"
    if found.beside:
        says += f", beside black and white {limit.beside:.2f}"
    says += f": {'holds' if holds else 'VIOLATED'})"
    return Verdict(name="consistency", passed=holds, value=found.max, limit=bound, says=says)


def _noisy_check(found: Consistency, says: str) -> Verdict:
    """Return whether noise explains the residual: of Gaussian noise .3 % of the values lie beyond
    three deviations, and hot pixels are few.
    """
    share = found.far / found.cells if found.cells else 0.0
    passed = share <= MOST_FAR
    says += f"; {share:.1%} beyond what the stated noise explains (limit {MOST_FAR:.0%})"
    return Verdict(name="consistency", passed=passed, value=share, limit=MOST_FAR, says=says)


def _all_clipped(found: Consistency, limit: Limit, *, noisy: bool) -> Verdict:
    holds = noisy or found.clipped_max <= limit.everywhere + EXACT
    verdict = "holds" if holds else "NOT SHOWN"
    says = (
        f"|A x - y| max {found.clipped_max:.3f} grey levels over {found.clipped:,} values, all "
        "with a pixel at black or white, where rounding is not all that errs "
        f"(limit {limit.everywhere:.2f}: {verdict})"
    )
    return Verdict(
        name="consistency",
        passed=holds,
        value=found.clipped_max,
        limit=limit.everywhere,
        says=says,
    )


def validity_checks(found: ValidityCounts | None) -> tuple[Verdict, ...]:
    """Return what became of samples without data; nothing where the image has none."""
    if found is None:
        return ()
    counts = {
        "valid kept": (found.lost, "measured samples have lost their data"),
        "filled": (found.unfilled, "unknown samples were not filled"),
        "none made up": (found.invented, "samples without data were given some"),
    }
    return tuple(
        Verdict(name=name, passed=count == 0, value=count, limit=0, says=f"{count:,} {what}")
        for name, (count, what) in counts.items()
    )


def seam_check(found: SeamReport, least_step: float) -> Verdict:
    """Return whether an edge between tiles stands out of the lines beside it.

    least_step: a smaller step is none, stored levels.
    """
    ratio = found.overall
    worst = found.worst
    error = "" if ratio.lines < 2 else f" +- {ratio.stderr:.3f}"
    says = f"seam ratio {ratio.ratio:.3f}{error} over {ratio.lines} edges"
    if not ratio.lines:
        return Verdict(name="seams", passed=True, value=1.0, limit=None, says="one tile, no edges")
    excess = worst.excess(least_step)
    if worst.limit is None:
        says += "; too few lines beside them to tell more"
        return Verdict(name="seams", passed=True, value=excess, limit=None, says=says)
    says += (
        f"; the worst edge stands out {excess:.2f} times as much as any of {worst.lines:,} lines "
        f"beside the edges (limit {worst.limit:.2f})"
    )
    return Verdict(
        name="seams", passed=excess <= worst.limit, value=excess, limit=worst.limit, says=says
    )


def value_checks(found: ValuesOfBoth, *, noisy: bool) -> tuple[Verdict, ...]:
    """Return whether the output has about the range of its input."""
    more = max(found.output_cut - found.input_near, 0.0)
    cut = Verdict(
        name="not cut off",
        passed=more <= MOST_CUT,
        value=more,
        limit=MOST_CUT,
        says=f"{found.output_cut:.1%} of the samples are at black or white, {found.input_near:.1%} "
        f"of the input's near them (limit {MOST_CUT:.0%} more)",
    )
    if found.input_used is None:
        return (cut,)
    before = found.input_used
    expected = found.input_used_without_noise if noisy else before
    # A few samples, or flat ones, say nothing of a spread.
    most = MOST_USED * before + FLAT
    passed = LEAST_USED * (expected or 0.0) - FLAT <= found.output_used <= most
    used = Verdict(
        name="range used",
        passed=passed,
        value=found.output_used / before if before else 1.0,
        limit=MOST_USED,
        says=f"98 % of the samples use {found.output_used:.1%} of the range, the input's "
        f"{before:.1%} (limits {LEAST_USED:g} to {MOST_USED:g} times)",
    )
    return cut, used
