"""Block Walsh-Hadamard compressed sensing: a few of each block's coefficients, after random sign
changes.

A block of b x b px is multiplied by random signs, transformed by the orthonormal Walsh-Hadamard
matrix of its pixels in Sylvester's order (= the one of b, along both axes), and some coefficients
are kept. The rows of A are orthonormal: A+ = A^T and every nonzero singular value is 1. The same
signs and selection serve every block and channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.operators.hadamard_size import kept_count
from kernels.operators.linear_operator import Operator


@dataclass(frozen=True, slots=True)
class BlockHadamard(Operator):
    """Keep the given coefficients of every block; `drawn` chooses them by a seed."""

    block: int
    """Side of a block, px, a power of two."""
    kept: tuple[int, ...]
    """Indices of the kept coefficients, row by row of the block."""
    signs: tuple[int, ...] = ()
    """+1 or -1 per pixel of the block, row by row; empty for none."""
    shared: ClassVar[bool] = True
    """All tiles of a batch have the same."""

    def __post_init__(self) -> None:
        kept_count(self.block, 1.0)
        last = self.block**2 - 1
        if not self.kept or min(self.kept) < 0 or max(self.kept) > last:
            raise ValueError(
                f"kept coefficients must lie in 0 to {last}, and there must be one at least"
            )

    @property
    def scale(self) -> int:
        """Return the block: a measurement "pixel" is one block's coefficients."""
        return self.block

    @property
    def alignment(self) -> int:
        """Return the block, px."""
        return self.block

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C kept, H/block, W/block), the coefficients of channel 0 first."""
        b, c, height, width = x.shape
        k = self.block
        rows = height // k
        cols = width // k
        blocks = x.reshape(b, c, rows, k, cols, k).permute(0, 1, 2, 4, 3, 5)
        coefficients = self._transform(self._signed(blocks)).flatten(4)
        kept = coefficients[..., list(self.kept)].permute(0, 1, 4, 2, 3)
        return kept.reshape(b, c * len(self.kept), rows, cols)

    def pinv(self, y: Tensor) -> Tensor:
        """Return A^T y, (B, C, H, W)."""
        b, _, rows, cols = y.shape
        k = self.block
        kept = y.reshape(b, -1, len(self.kept), rows, cols).permute(0, 1, 3, 4, 2)
        coefficients = y.new_zeros((*kept.shape[:-1], k * k))
        coefficients[..., list(self.kept)] = kept

        transformed = self._transform(coefficients.unflatten(-1, (k, k)))
        blocks = self._signed(transformed)
        return blocks.permute(0, 1, 2, 4, 3, 5).reshape(b, -1, rows * k, cols * k)

    def singular_values(self, x: Tensor) -> float:
        """Return 1."""
        return 1.0

    def _signed(self, blocks: Tensor) -> Tensor:
        if not self.signs:
            return blocks
        signs = blocks.new_tensor(self.signs)
        return blocks * signs.view(self.block, self.block)

    def _transform(self, blocks: Tensor) -> Tensor:
        """Transform (B, C, rows, cols, k, k), its own inverse; tile by tile on a CPU."""
        matrix = torch.from_numpy(hadamard(self.block)).to(blocks)
        if blocks.device.type != "cpu":
            return matrix @ blocks @ matrix
        tiles = [matrix @ tile @ matrix for tile in blocks.split(1)]
        return torch.cat(tiles)


def drawn(block: int, ratio: float, seed: int) -> BlockHadamard:
    """Return the operator that keeps round(ratio block^2) coefficients, drawn with the signs from
    the seed.

    Raises ValueError for a ratio outside (0, 1], one that keeps nothing, or a block that is no
    power of two.
    """
    kept = kept_count(block, ratio)
    pixels = block * block
    rng = np.random.Generator(np.random.Philox(seed))
    signs = 1 - 2 * rng.integers(0, 2, pixels)
    order = rng.permutation(pixels)
    chosen = np.sort(order[:kept])
    return BlockHadamard(block, tuple(chosen.tolist()), tuple(signs.tolist()))


@lru_cache(maxsize=8)
def hadamard(side: int) -> NDArray[np.float64]:
    """Return the orthonormal Walsh-Hadamard matrix (side, side) in Sylvester's order."""
    matrix = np.ones((1, 1))
    while len(matrix) < side:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(side)
