"""One axis of a tile grid: where tiles lie, what each owns, whom each waits for. Tables of one
integer per tile index.

An order is a rank per tile: neighbours never have the same, and of two neighbours the lower one is
restored first and keeps all of its window but the margin. Everything else follows from the ranks
and from interval overlap:

    order     ranks of nine tiles (block 3 for bridge)     longest chain
    raster    0 1 2 3 4 5 6 7 8                            count
    centre    4 3 2 1 0 1 2 3 4                            half of that
    bridge    2 1 0 1 2 1 0 1 2                            2 + block // 2, at any count
    colour    1 0 1 0 1 0 1 0 1                            2, at any count

One axis of length 640 with tile 256 and stride 128, raster order, without and with a margin of 64:

    tile    window         owns (margin 0)   owns (margin 64)   pinned (margin 64)
    0       [0, 256)       [0, 256)          [0, 192)           -
    1       [128, 384)     [256, 384)        [192, 320)         [128, 192)
    2       [256, 512)     [384, 512)        [320, 448)         [256, 320)
    3       [384, 640)     [512, 640)        [448, 640)         [384, 448)

The margin is the outer part of a window that a tile restores but does not commit, because nothing
beyond the window told the network what comes there; the next tile restores it again, with context
on both sides. Margin 0 is the paper's geometry. The pixels of a window that are neither owned nor
margin are pinned: earlier tiles have committed them. A bridge is pinned on both sides.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.errors import PlanError

ORDERS = ("raster", "centre", "bridge", "colour")
# Tiles along a block's side in bridge order when the user does not say.
BLOCK = 16


@dataclass(frozen=True, slots=True)
class AxisGrid:
    """Tiles along one axis: starts 0, S, 2S, ... and a last one at length - tile."""

    length: int
    """Padded length of the axis, px."""
    tile: int
    stride: int
    margin: int
    """Outer pixels of a window that a tile does not commit, except at the image's own edge, px."""
    ranks: tuple[int, ...]
    """Per tile: the number of tiles on the longest chain before it."""
    firsts: tuple[int, ...]
    """Per tile: the first of the tiles that it waits for, directly or not, or itself; those are
    neighbours in a row.
    """
    lasts: tuple[int, ...]
    """Per tile: the last of them."""

    @classmethod
    def build(
        cls,
        length: int,
        tile: int,
        stride: int,
        margin: int = 0,
        order: str = "raster",
        block: int = BLOCK,
    ) -> AxisGrid:
        """Lay tiles along an axis; raises PlanError when bridges would have nothing to restore."""
        count = 1 + -(-(length - tile) // stride)
        ranks = _ranks(count, order, block)
        firsts = list(range(count))
        lasts = list(range(count))
        for i in range(1, count):
            if ranks[i - 1] < ranks[i]:
                firsts[i] = firsts[i - 1]
        for i in range(count - 2, -1, -1):
            if ranks[i + 1] < ranks[i]:
                lasts[i] = lasts[i + 1]
        axis = cls(length, tile, stride, margin, tuple(ranks), tuple(firsts), tuple(lasts))
        if (
            any(len(axis.parents(i)) == 2 for i in range(count))
            and 2 * stride - tile + 2 * margin <= 0
        ):
            raise PlanError(
                f"order {order} leaves the tiles between others nothing to restore with stride "
                f"{stride} and margin "
                f"{margin} px; choose a stride above {tile // 2} or a margin above "
                f"{(tile - 2 * stride) // 2}"
            )
        return axis

    @property
    def count(self) -> int:
        return len(self.ranks)

    def start(self, i: int) -> int:
        return min(i * self.stride, self.length - self.tile)

    def end(self, i: int) -> int:
        return self.start(i) + self.tile

    @property
    def roots(self) -> list[int]:
        """Return the tiles that wait for nobody."""
        return [i for i, rank in enumerate(self.ranks) if rank == 0]

    def parents(self, i: int) -> list[int]:
        """Return the neighbours that tile i waits for: one towards the root, two for a bridge, none
        for a root.
        """
        return [j for j in self._neighbours(i) if self.ranks[j] < self.ranks[i]]

    def children(self, i: int) -> list[int]:
        """Return the neighbours that wait for tile i."""
        return [j for j in self._neighbours(i) if self.ranks[j] > self.ranks[i]]

    def _neighbours(self, i: int) -> Iterator[int]:
        return (j for j in (i - 1, i + 1) if 0 <= j < self.count)

    def owned(self, i: int) -> tuple[int, int]:
        """Return the half-open interval that tile i writes; these intervals partition the axis.

        >>> axis = AxisGrid.build(640, 256, 128, margin=64)
        >>> [axis.owned(i) for i in range(axis.count)]
        [(0, 192), (192, 320), (320, 448), (448, 640)]
        """
        return self._cut(i), self._cut(i + 1)

    def _cut(self, i: int) -> int:
        """Return the boundary between tiles i - 1 and i: the one restored first keeps its window
        but the margin.
        """
        if i == 0:
            return 0
        if i == self.count:
            return self.length
        if self.ranks[i - 1] < self.ranks[i]:
            return self.end(i - 1) - self.margin
        return self.start(i) + self.margin

    def settled(self, i: int) -> tuple[int, int]:
        """Return the part of tile i's window that is committed once tile i is: its own and its
        ancestors' pixels.
        """
        return max(self.start(i), self._cut(self.firsts[i])), min(
            self.end(i), self._cut(self.lasts[i] + 1)
        )

    def owner(self, position: int) -> int:
        """Return the index of the tile that owns the pixel at `position`."""
        return bisect_right(range(1, self.count), position, key=self._cut)

    def carriers(self, lo: int, hi: int) -> list[int]:
        """Return the fewest of the owners of the pixels [lo, hi) that wait, directly or not, for
        all the others.
        """
        first = self.owner(lo)
        last = self.owner(hi - 1)
        inside = range(first, last + 1)
        return [
            i
            for i in inside
            if not any(j in inside and self.ranks[j] > self.ranks[i] for j in (i - 1, i + 1))
        ]


def _ranks(count: int, order: str, block: int) -> list[int]:
    """Return the longest chain before each tile.

    The last tile starts off the stride: it always waits for the one before it, so that no boundary
    of owned boxes depends on where it starts and all lie on one lattice. So the last block has one
    tile more than the others.
    """
    if order == "raster":
        return list(range(count))
    step = {"centre": count, "bridge": block, "colour": 1}[order] + 1
    bridges = range((count - 1) % step, count - 1, step)
    ranks = [0] * count
    for before, after in pairwise((-1, *bridges, count)):
        root = (before + after) // 2
        for i in range(before + 1, after):
            ranks[i] = abs(i - root)
    for i in bridges:
        ranks[i] = 1 + max(ranks[j] for j in (i - 1, i + 1) if j >= 0)
    return ranks
