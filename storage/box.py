"""Half-open integer boxes in (y, x) order: how this package names every part of an image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Name the pixels with y0 <= y < y1 and x0 <= x < x1.

    Raises ValueError when an end lies before its start; a box of zero height or width is allowed
    and is empty.
    """

    y0: int
    """First row, px."""
    x0: int
    """First column, px."""
    y1: int
    """One past the last row, px."""
    x1: int
    """One past the last column, px."""

    def __post_init__(self) -> None:
        if self.y1 < self.y0 or self.x1 < self.x0:
            raise ValueError(
                f"box ({self.y0}, {self.x0}, {self.y1}, {self.x1}) ends before it starts"
            )

    @property
    def height(self) -> int:
        """Return the number of rows, px."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Return the number of columns, px."""
        return self.x1 - self.x0

    @property
    def shape(self) -> tuple[int, int]:
        """Return (height, width), px."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Return the number of pixels."""
        return self.height * self.width

    @property
    def empty(self) -> bool:
        """Tell whether the box holds no pixel."""
        return self.area == 0

    def intersect(self, other: Box) -> Box:
        """Return the common part; an empty box where there is none."""
        y0 = max(self.y0, other.y0)
        x0 = max(self.x0, other.x0)
        y1 = min(self.y1, other.y1)
        x1 = min(self.x1, other.x1)
        return Box(y0, x0, max(y0, y1), max(x0, x1))

    def contains(self, other: Box) -> bool:
        """Tell whether every pixel of `other` is in this box, as are those of an empty box."""
        starts_inside = self.y0 <= other.y0 and self.x0 <= other.x0
        ends_inside = other.y1 <= self.y1 and other.x1 <= self.x1
        return (starts_inside and ends_inside) or other.empty

    def shift(self, dy: int, dx: int) -> Box:
        """Move the box by (dy, dx) px."""
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def scale(self, n: int) -> Box:
        """Return the same region on a grid `n` times finer."""
        return Box(self.y0 * n, self.x0 * n, self.y1 * n, self.x1 * n)

    def floordiv(self, n: int) -> Box:
        """Return the same region on a grid `n` times coarser.

        Raises ValueError when the box is not aligned to `n`: rounding would lose pixels; `cover`
        rounds outwards.
        """
        ends = (self.y0, self.x0, self.y1, self.x1)
        if any(end % n for end in ends):
            raise ValueError(f"{self} is not aligned to {n}; use cover({n}) to round outwards")
        return self.cover(n)

    def cover(self, n: int) -> Box:
        """Return the smallest box on a grid `n` times coarser that covers this one."""
        y0 = self.y0 // n
        x0 = self.x0 // n
        y1 = -(-self.y1 // n)
        x1 = -(-self.x1 // n)
        return Box(y0, x0, y1, x1)

    def expand(self, margin: int) -> Box:
        """Grow the box by `margin` px on every side; coordinates may go below 0, see `clip`."""
        return Box(
            self.y0 - margin,
            self.x0 - margin,
            self.y1 + margin,
            self.x1 + margin,
        )

    def clip(self, height: int, width: int) -> Box:
        """Keep the part inside an image of (height, width) px; empty where there is none."""
        y0 = min(max(self.y0, 0), height)
        x0 = min(max(self.x0, 0), width)
        y1 = min(self.y1, height)
        x1 = min(self.x1, width)
        return Box(y0, x0, max(y0, y1), max(x0, x1))

    def slices(self) -> tuple[slice, slice]:
        """Return (rows, columns) for indexing the last two axes of an array."""
        rows = slice(self.y0, self.y1)
        columns = slice(self.x0, self.x1)
        return rows, columns

    def __str__(self) -> str:
        return f"rows {self.y0}..{self.y1}, columns {self.x0}..{self.x1}"
