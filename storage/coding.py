"""How an image was coded with loss, and on which lattice that leaves edges."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """A coding that changes pixels; axes are (y, x) of the delivered image, lengths in px."""

    name: str
    """'JPEG', 'JPEG 2000', 'WebP', ..."""
    quality: int | None = None
    """1 to 100 by the formula of the Independent JPEG Group; None: the coding has no such."""
    exact: bool = True
    """Whether the quantisation tables are those of that quality, not only near to them."""
    blocks: Pair | None = None
    """Sides of what is transformed on its own; None: no lattice is left in the pixels."""
    segments: Pair | None = None
    """Sides of the tiles or strips in each of which the blocks begin anew; None: only once."""
    from_end: tuple[bool, bool] = (False, False)
    """Whether the blocks are laid from the last row (column), as in images that were turned."""
    said: str = ""
    """What else users should know, a few words."""

    def edge_distance(self, axis: int, line: int, length: int) -> int:
        """Return how far the border before row (column) `line` is from the nearest edge of a block.

        length: rows (columns) of the image. 0 is an edge; 0 everywhere without a lattice.
        """
        if self.blocks is None:
            return 0
        place = length - line if self.from_end[axis] else line
        block = self.blocks[axis]
        if self.segments is None:
            inside = place % block
            return min(inside, block - inside)
        segment = self.segments[axis]
        inside = place % segment
        to_the_next = min(block - inside % block, segment - inside)
        return min(inside % block, to_the_next)

    @property
    def restarts(self) -> bool:
        """Whether blocks begin anew in segments that they do not fill, so that no one lattice is
        left.
        """
        if self.segments is None or self.blocks is None:
            return False
        pairs = zip(self.segments, self.blocks, strict=True)
        return any(segment % block for segment, block in pairs)

    def turned(self, *, swapped: bool, from_end: tuple[bool, bool]) -> Coding:
        """Return the coding of a stored image that is delivered upright: sides exchanged, then
        rows or columns reversed.
        """
        blocks = self.blocks
        segments = self.segments
        if swapped:
            blocks = blocks and (blocks[1], blocks[0])
            segments = segments and (segments[1], segments[0])
        return replace(self, blocks=blocks, segments=segments, from_end=from_end)

    def in_words(self) -> str:
        """Return what users are told: 'JPEG, quality 30: 8 px blocks'."""
        text = self.name
        if self.quality is not None:
            about = "" if self.exact else "about "
            text += f", quality {about}{self.quality}"
        if self.said:
            text += f", {self.said}"
        if self.blocks is not None:
            text += f": {_sides(self.blocks)} px blocks"
        return text

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON has them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Coding:
        """Return what `as_dict` gave, after it has been JSON."""
        pairs = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**values | pairs)


def _sides(blocks: Pair) -> str:
    tall, wide = blocks
    return f"{tall}" if tall == wide else f"{tall} x {wide}"
