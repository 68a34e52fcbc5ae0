"""Draw a run's history as an SVG: who worked when, and how the tiles came in. Plain text, no
drawing library.
"""

from __future__ import annotations

from html import escape

from cluster.terminal.progress import duration
from orchestrator.monitoring.history import COLUMNS, ColumnTime, History
from orchestrator.monitoring.worker_times import WorkerTime

LEFT = 170
TOP = 60
ROW = 18
CURVE = 120
RIGHT = 70
LEVEL0 = "#2b6cb0"
COARSE = "#dd8a2e"
LOST = "#c53030"
# More workers than this are drawn in rows of several, by their mean.
MOST_ROWS = 64


def draw(history: History, title: str) -> str:
    """Return the SVG of a history: a row per worker (or group of workers), below it the tiles done
    over time.
    """
    rows = _rows(list(history.workers.values()))
    width = LEFT + COLUMNS + RIGHT
    height = TOP + ROW * len(rows) + CURVE + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(10, 20, title, size=14),
        _text(10, 38, _summary(history)),
        _text(LEFT, 54, "level 0", LEVEL0),
        _text(LEFT + 60, 54, "coarser levels", COARSE),
        _text(LEFT + 160, 54, "worker lost", LOST),
    ]
    for number, workers in enumerate(rows):
        parts += _row(history, workers, TOP + number * ROW)
    parts += _curve(history, TOP + ROW * len(rows) + 15)
    return "\n".join([*parts, "</svg>\n"])


def _summary(history: History) -> str:
    used = [history.utilisation(worker) for worker in history.workers.values()]
    mean = sum(used) / max(len(used), 1)
    summary = history.summary
    return (
        f"{summary.done} of {summary.tiles} tiles, {summary.nfe} network evaluations in "
        f"{duration(summary.seconds)}; "
        f"{len(used)} workers, {mean:.0%} busy on average; {summary.failures} failed tries; "
        f"attempts: {summary.attempts}"
    )


def _rows(workers: list[WorkerTime]) -> list[list[WorkerTime]]:
    size = -(-len(workers) // MOST_ROWS) or 1
    return [workers[i : i + size] for i in range(0, len(workers), size)]


def _row(history: History, workers: list[WorkerTime], y: int) -> list[str]:
    """Return the row of a worker, or of several as their mean."""
    name = workers[0].name
    if len(workers) > 1:
        name = f"{name} and {len(workers) - 1} more"
    utilisation = sum(map(history.utilisation, workers)) / len(workers)
    parts = [
        _text(5, y + 12, name[:28]),
        _text(LEFT + COLUMNS + 5, y + 12, f"{utilisation:.0%}"),
        f'<rect x="{LEFT}" y="{y}" width="{COLUMNS}" height="{ROW - 4}" fill="#f2f2f2"/>',
    ]
    columns = [history.columns[w.name] for w in workers if w.name in history.columns]
    for column in sorted({column for times in columns for column in times}):
        there = [times[column] for times in columns if column in times]
        whole = history.column * len(workers)
        parts += _column(there, whole, LEFT + column, y + ROW - 4.0)
    for worker in workers:
        if worker.lost and worker.left is not None:
            x = LEFT + (worker.left - history.summary.began) / history.column
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="2" height="{ROW - 4}" fill="{LOST}"/>')
    return parts


def _column(there: list[ColumnTime], whole: float, x: int, bottom: float) -> list[str]:
    """Return the bars of one column of time: work on level 0, and on top of it on coarser ones.

    whole: worker seconds in the column.
    """
    fine = sum(time.fine for time in there)
    coarse = sum(time.coarse for time in there)
    parts = []
    for busy, colour in ((fine, LEVEL0), (coarse, COARSE)):
        tall = min(busy / whole, 1.0) * (ROW - 4)
        if tall > 0:
            bottom -= tall
            parts.append(
                f'<rect x="{x}" y="{bottom:.1f}" width="1" height="{tall:.1f}" fill="{colour}"/>'
            )
    return parts


def _curve(history: History, y: int) -> list[str]:
    summary = history.summary
    bottom = y + CURVE
    points = [f"{LEFT},{y + CURVE}"]
    for column, done in sorted(history.progress.items()):
        points.append(f"{LEFT + column + 1},{bottom - CURVE * done / max(summary.tiles, 1):.1f}")
    return [
        f'<rect x="{LEFT}" y="{y}" width="{COLUMNS}" height="{CURVE}" fill="none" '
        'stroke="#cccccc"/>',
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{LEVEL0}"/>',
        _text(5, y + 12, f"{summary.tiles} tiles"),
        _text(LEFT, bottom + 15, "0 s"),
        _text(LEFT + COLUMNS - 20, bottom + 15, duration(summary.seconds)),
    ]


def _text(x: float, y: float, text: str, colour: str = "black", size: int = 11) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
