"""How visible the seams between tiles are: a meter that is fed a picture window by window.

numpy only. Images are (C, H, W); nothing that is held grows with the area.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kernels.metrics import Float64, Image

Edge = tuple[int, int]
"""Axis (0 between rows) and place, px."""
Standing = tuple[float, float]
"""Ratio of differences and mean step, of a line to others."""
Kind = Callable[[int], int]
"""Of the border before a row or column; borders of one kind can be compared."""

# An edge is a seam when it stands out by SEAM_FACTOR + SEAM_SCATTER / n times as much as any of the
# n lines that it is compared with, of which there are SEAM_LINES at least, and when the differences
# across it are SEAM_LEAST_RATIO times those across them. In 230 restorations of the tests, of which
# the smallest have 32 px, pictures without seams reach .9 of that.
SEAM_FACTOR = 1.5
SEAM_SCATTER = 8.0
SEAM_LINES = 12
SEAM_LEAST_RATIO = 1.3

# A picture has sharp edges of its own: so much of the lines stand out no more than SEAM_FACTOR is
# of. Edges that stand out in the measurement too are the picture's, up to MEASURED_STEP times.
SEAM_QUANTILE = 0.95
MEASURED_STEP = 1.2

# Parallel lines nearer to a seam than this may still feel it (method: 4 to S/4 px away).
SEAM_CLEARANCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamRatio:
    """Report how much larger differences are across seams than beside them; 1 = no seam."""

    ratio: float
    stderr: float
    """Standard error over the lines; nan with fewer than two."""
    lines: int
    """Internal edges measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstEdge:
    """The edge that stands out most of the lines that it is compared with, and how far those do.

    A picture has edges of its own on some lines. A seam is one that no such line comes near to.
    """

    ratio: float = 1.0
    """Largest ratio of the differences across an edge to those across its parallel lines."""
    usual_ratio: float = 1.0
    """Largest such ratio of one of those lines to the others."""
    step: float = 0.0
    """Largest mean step across an edge beyond those across its parallel lines, stored levels."""
    usual_step: float = 0.0
    """Largest such step of one of those lines."""
    lines: int = 0
    """Lines compared with."""

    @property
    def limit(self) -> float | None:
        """Return how many times as much as those lines an edge may stand out; None: too few of them
        to tell.

        Of fewer lines the largest is less sure to be as large as that of the edges.
        """
        return SEAM_FACTOR + SEAM_SCATTER / self.lines if self.lines >= SEAM_LINES else None

    def excess(self, least_step: float) -> float:
        """Return how many times as much as the lines the edge stands out; 1 where it does not.

        least_step: a smaller step is none, stored levels.
        """
        ratio = 1.0
        if self.ratio > SEAM_LEAST_RATIO:
            ratio = self.ratio / max(self.usual_ratio, 1.0)
        step = 1.0
        if self.step > least_step:
            usual = max(self.usual_step, least_step)
            step = self.step / usual if usual > 0 else math.inf
        return max(ratio, step, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamReport:
    """Give the seam ratio of the edges between rows, of those between columns, and of all."""

    rows: SeamRatio
    columns: SeamRatio
    overall: SeamRatio
    unphased: SeamRatio
    """Overall, against all parallel lines; since edges lie on the operator's cells, their steps
    count as seams here.
    """
    worst: WorstEdge = WorstEdge()


def _one_kind(line: int) -> int:
    return 0


@dataclass(slots=True, kw_only=True)
class SeamMeter:
    """Compare the differences across owned-box edges with those across parallel lines 4 to S/4 px
    away.

    An edge e on the row axis lies between rows e-1 and e. Feed the boxes of `windows`, in any
    order, each once. Owned boxes end on the lattice of the operator's cells (every 4 px for x4
    super-resolution), across which even a picture restored in one piece differs more than inside a
    cell; so lines at the same phase of the lattice are compared, and of the same kind.
    """

    height: int
    width: int
    row_edges: Sequence[int]
    """Internal owned-box edges on the row axis, px, ascending."""
    column_edges: Sequence[int]
    stride: int
    """Tile stride S, px."""
    period: int = 1
    """Period of the operator's cell lattice, px."""
    kinds: tuple[Kind, Kind] | None = None
    """For rows and for columns, which kind a line is of: only lines of one kind are compared. Where
    the measurement was coded in blocks, lines at one distance from their edges are of one kind.
    """
    reach: int = 0
    """Where kinds need lines farther away than S/4 px: how far they are looked for, px."""
    _row_sums: Float64 = field(init=False)
    """Sum of |x[y] - x[y-1]| over columns and channels, for every y."""
    _column_sums: Float64 = field(init=False)
    _row_steps: NDArray[np.int64] = field(init=False)
    """Number of the steps in such a sum."""
    _column_steps: NDArray[np.int64] = field(init=False)
    _row_signed: Float64 | None = field(init=False, default=None)
    """Sum of x[y] - x[y-1] over columns, (C, height)."""
    _column_signed: Float64 | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._row_sums = np.zeros(self.height)
        self._row_steps = np.zeros(self.height, np.int64)
        self._column_steps = np.zeros(self.width, np.int64)
        self._column_sums = np.zeros(self.width)

    def windows(self, side: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield boxes (y0, x0, y1, x1) to read and feed, at most (side+1)^2 px; they overlap by one
        row and column.
        """
        for y in range(0, self.height, side):
            for x in range(0, self.width, side):
                top = max(y - 1, 0)
                left = max(x - 1, 0)
                bottom = min(y + side, self.height)
                right = min(x + side, self.width)
                yield top, left, bottom, right

    def update(
        self,
        y0: int,
        x0: int,
        window: Image,
    ) -> None:
        """Add the window (C, h, w) whose upper left pixel is (y0, x0); any integer or floating
        dtype. A step from or to NaN does not count.
        """
        x = window.astype(np.float64)
        _, h, w = x.shape
        # Row and column 0 were counted with the window before, unless there is none: they only
        # complete a pair.
        rows = x[:, :, min(x0, 1) :]
        columns = x[:, min(y0, 1) :, :]
        row_steps = np.diff(rows, axis=1)
        column_steps = np.diff(columns, axis=2)
        self._row_sums[y0 + 1 : y0 + h] += np.nansum(np.abs(row_steps), axis=(0, 2))
        self._column_sums[x0 + 1 : x0 + w] += np.nansum(np.abs(column_steps), axis=(0, 1))
        self._row_steps[y0 + 1 : y0 + h] += np.isfinite(row_steps).sum(axis=(0, 2))
        self._column_steps[x0 + 1 : x0 + w] += np.isfinite(column_steps).sum(axis=(0, 1))
        if self._row_signed is None or self._column_signed is None:
            self._row_signed = np.zeros((len(x), self.height))
            self._column_signed = np.zeros((len(x), self.width))
        self._row_signed[:, y0 + 1 : y0 + h] += np.nansum(row_steps, axis=2)
        self._column_signed[:, x0 + 1 : x0 + w] += np.nansum(column_steps, axis=1)

    def result(self, in_measured: Mapping[Edge, Standing] | None = None) -> SeamReport:
        """Return the ratios of what has been fed; 1 with no lines for an image without internal
        edges.

        in_measured: how far edges stand out in the measurement already.
        """
        of_rows, of_columns = self.kinds or (_one_kind, _one_kind)
        last = max(self.stride // 4, self.reach)
        row_sums = _of_all_steps(self._row_sums, self._row_steps)
        column_sums = _of_all_steps(self._column_sums, self._column_steps)
        rows = _pairs(row_sums, self.row_edges, last, self.period, of_rows)
        columns = _pairs(column_sums, self.column_edges, last, self.period, of_columns)
        unphased = _pairs(row_sums, self.row_edges, self.stride // 4, 1)
        unphased += _pairs(column_sums, self.column_edges, self.stride // 4, 1)
        return SeamReport(
            rows=_ratio(rows),
            columns=_ratio(columns),
            overall=_ratio(rows + columns),
            unphased=_ratio(unphased),
            worst=self._worst(in_measured or {}),
        )

    def standing_out(self) -> dict[Edge, Standing]:
        """Return by how much every edge stands out of the lines that it is compared with."""
        return {
            (axis, edge): _standing_out(sums, steps, edge, lines)
            for axis, (sums, steps, compared) in enumerate(self._axes())
            for edge, lines in compared
        }

    def _axes(self) -> Iterator[tuple[Float64, Float64, list[tuple[int, list[int]]]]]:
        """Yield, for rows and columns, the sums, the mean steps, and every edge with its lines."""
        if self._row_signed is None or self._column_signed is None:
            return
        kinds = self.kinds or (_one_kind, _one_kind)
        last = max(self.stride // 4, self.reach)
        axes = (
            (self._row_sums, self._row_steps, self._row_signed, self.row_edges, kinds[0]),
            (
                *(self._column_sums, self._column_steps, self._column_signed),
                *(self.column_edges, kinds[1]),
            ),
        )
        for sums, counts, signed, places, kind in axes:
            compared = list(_compared(len(sums), places, last, self.period, kind))
            mean_steps = signed * len(signed) / np.maximum(counts, 1)
            yield _of_all_steps(sums, counts), mean_steps, compared

    def _worst(self, in_measured: Mapping[Edge, Standing]) -> WorstEdge:
        """Return the edge that stands out most, of the axis where that is more."""
        found = [WorstEdge()]
        for axis, (sums, steps, compared) in enumerate(self._axes()):
            edges = []
            others = []
            for edge, lines in compared:
                ratio, step = _standing_out(sums, steps, edge, lines)
                ratio_before, step_before = in_measured.get((axis, edge), (1.0, 0.0))
                edges.append(
                    (ratio / max(ratio_before, 1.0), max(step - MEASURED_STEP * step_before, 0.0))
                )
                for line in lines if len(lines) > 1 else []:
                    rest = [other for other in lines if other != line]
                    others.append(_standing_out(sums, steps, line, rest))
            worst = WorstEdge(
                ratio=max((ratio for ratio, _ in edges), default=1.0),
                usual_ratio=_nearly_largest([ratio for ratio, _ in others], 1.0),
                step=max((step for _, step in edges), default=0.0),
                usual_step=_nearly_largest([step for _, step in others], 0.0),
                lines=len(others),
            )
            found.append(worst)
        # Without a limit nothing is told of an edge.
        return max(found, key=lambda worst: worst.excess(0.0) / worst.limit if worst.limit else 0)


def _nearly_largest(values: list[float], nothing: float) -> float:
    """Return the value that SEAM_QUANTILE of the finite ones do not exceed."""
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return nothing
    return finite[min(int(SEAM_QUANTILE * len(finite)), len(finite) - 1)]


def _standing_out(
    sums: Float64, steps: Float64, line: int, others: list[int]
) -> tuple[float, float]:
    """Return (ratio, step) of a line against others; the ratio is 1 where all is flat."""
    beside = float(sums[others].mean())
    across = float(sums[line])
    ratio = across / beside if beside > 0 else (math.inf if across > 0 else 1.0)
    step = steps[:, line] - steps[:, others].mean(axis=1)
    return ratio, float(np.sqrt((step**2).mean()))


def _of_all_steps(sums: Float64, steps: NDArray[np.int64]) -> Float64:
    """Return sums as if every line had as many steps that count as the one with the most."""
    most = steps.max(initial=0)
    if (steps[1:] == most).all():
        return sums
    return np.asarray(sums * (most / np.maximum(steps, 1)))


def _pairs(
    sums: Float64,
    edges: Sequence[int],
    last: int,
    period: int,
    kind: Kind = _one_kind,
) -> list[tuple[float, float]]:
    """Return for every edge the sum across it and the mean sum across its parallel lines, none of
    them near an edge; last: how far away they are at most, px.
    """
    pairs = []
    for edge, lines in _compared(len(sums), edges, last, period, kind):
        across = float(sums[edge])
        beside = float(sums[lines].mean())
        pairs.append((across, beside))
    return pairs


def _compared(
    length: int,
    edges: Sequence[int],
    last: int,
    period: int,
    kind: Kind,
) -> Iterator[tuple[int, list[int]]]:
    """Yield each edge with the lines that it is compared with, where there are some."""
    first = -(-SEAM_CLEARANCE // period) * period
    offsets = range(first, max(last, first) + 1, period)

    def clear(line: int) -> bool:
        """Tell whether a line lies inside the image and away from every edge."""
        if not 0 < line < length:
            return False
        return all(abs(line - edge) >= SEAM_CLEARANCE for edge in _nearest(edges, line))

    for edge in edges:
        before = [edge - offset for offset in offsets]
        after = [edge + offset for offset in offsets]
        like = kind(edge)
        lines = [line for line in before + after if clear(line) and kind(line) == like]
        if lines:
            yield edge, lines


def _nearest(edges: Sequence[int], line: int) -> Sequence[int]:
    """Return the edges next to a line, one on either side; edges ascend."""
    i = bisect_left(edges, line)
    return edges[max(i - 1, 0) : i + 1]


def _ratio(pairs: list[tuple[float, float]]) -> SeamRatio:
    """Return the ratio of means and the standard error of that estimator (Cochran 1977, Eq. 6.9).

    pairs: sum across an edge, mean sum across its parallel lines.
    """
    if not pairs:
        return SeamRatio(ratio=1.0, stderr=0.0, lines=0)
    across, beside = np.array(pairs).T
    n = len(pairs)
    total = float(beside.sum())
    if total == 0:
        flat = across.sum() == 0
        return SeamRatio(ratio=1.0 if flat else math.inf, stderr=0.0, lines=n)

    ratio = float(across.sum()) / total
    stderr = math.nan
    if n > 1:
        deviation = across - ratio * beside
        scatter = float((deviation**2).sum())
        stderr = math.sqrt(scatter * n / (n - 1)) / total
    return SeamRatio(ratio=ratio, stderr=stderr, lines=n)
