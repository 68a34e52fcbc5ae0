"""A small line chart as SVG, so that a picture needs no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 640
HEIGHT = 400
LEFT = 70
BOTTOM = 50
TOP = 40
RIGHT = 170
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#888888", "#009e73", "#cc79a7")
TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined by a line, with a name in the legend."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def svg(title: str, across: str, up: str, lines: Sequence[Line]) -> str:
    """Return a chart from 0 to the greatest values; raises ValueError when there is no point above
    0.
    """
    points = [point for line in lines for point in line.points]
    far = max((x for x, _ in points), default=0.0)
    high = max((y for _, y in points), default=0.0)
    if far <= 0 or high <= 0:
        raise ValueError("nothing to draw: no point lies above 0")

    axes = _Axes(far, high)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, TOP - 16, title),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, across, "middle"),
        _text(LEFT, TOP - 2, up),
        *axes.drawn(),
    ]
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        parts += _curve(line, colour, axes)
        parts += _legend(line.name, colour, TOP + 18 * number)
    return "\n".join([*parts, "</svg>\n"])


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where values lie on the picture."""

    far: float
    """The greatest value to the right."""
    high: float
    """The greatest value upwards."""

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of two values, px from the upper left."""
        width = WIDTH - LEFT - RIGHT
        height = HEIGHT - BOTTOM - TOP
        return LEFT + x / self.far * width, HEIGHT - BOTTOM - y / self.high * height

    def drawn(self) -> list[str]:
        """Return ticks below, and lines across with their values."""
        parts = []
        for value in _ticks(self.far):
            x, y = self.place(value, 0)
            parts.append(_rule(x, y, x, y + 4))
            parts.append(_text(x, y + 18, f"{value:g}", "middle"))
        for value in _ticks(self.high):
            x, y = self.place(0, value)
            parts.append(_rule(x, y, WIDTH - RIGHT, y, "#dddddd"))
            parts.append(_text(x - 6, y + 4, f"{value:g}", "end"))
        return parts


def _curve(line: Line, colour: str, axes: _Axes) -> list[str]:
    """Return a line and its points."""
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    placed = [axes.place(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>',
        *dots,
    ]


def _legend(name: str, colour: str, y: int) -> list[str]:
    left = WIDTH - RIGHT + 12
    return [
        _rule(left, y, left + 20, y, colour),
        _text(left + 26, y + 4, name),
    ]


def _ticks(most: float) -> list[float]:
    """Return round values from 0, about TICKS of them."""
    size = 10.0 ** math.floor(math.log10(most / TICKS))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor * TICKS >= most * 0.99)
    return [step * i for i in range(int(most / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rule(x0: float, y0: float, x1: float, y1: float, colour: str = "black") -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}"/>'
