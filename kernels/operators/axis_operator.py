"""Hold one axis of a separable measurement: its matrices, decomposed by singular values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kernels.operators.stencil import Stencil

Decomposition = tuple[Tensor, Tensor, Tensor]
"""u, s, vt."""

# Matrices kept decomposed: a run's tiles share a handful of them.
KEPT = 64


@dataclass(frozen=True, slots=True, eq=False)
class AxisOperator:
    """Hold one axis' operator and its singular value decomposition, tile by tile, float64."""

    matrix: Tensor
    """(B, m, n)."""
    u: Tensor
    """(B, m, k), k = min(m, n)."""
    s: Tensor
    """(B, k)."""
    vt: Tensor
    """(B, k, n)."""
    exact: Tensor
    """(B, m) bool: rows that are measurements of the picture, not hints beside its edge
    (`Stencil.matrix`).
    """

    @classmethod
    def of(cls, matrices: Sequence[tuple[Tensor, Tensor]]) -> AxisOperator:
        """Return the operator of tiles with the given (matrix, exact), one pair per tile."""
        parts = []
        for matrix, exact in matrices:
            u, s, vt = _decomposed(matrix)
            parts.append((matrix, u, s, vt, exact))
        columns = [torch.stack(column) for column in zip(*parts, strict=True)]
        return cls(*columns)


@lru_cache(maxsize=KEPT)
def axis_matrix(
    stencil: Stencil,
    axis: int,
    side: int,
    low: int,
    high: int,
) -> tuple[Tensor, Tensor]:
    """Return `Stencil.matrix` as tensors."""
    matrix, exact = stencil.matrix(axis, side, low, high)
    return torch.from_numpy(matrix), torch.from_numpy(exact)


_DECOMPOSED: dict[int, tuple[Tensor, Decomposition]] = {}


def _decomposed(matrix: Tensor) -> Decomposition:
    """Decompose a matrix once; the cache holds the matrix too, so that its identity stays its
    own.
    """
    cached = _DECOMPOSED.get(id(matrix))
    if cached is not None and cached[0] is matrix:
        return cached[1]
    if len(_DECOMPOSED) >= KEPT:
        _DECOMPOSED.clear()
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    _DECOMPOSED[id(matrix)] = (matrix, (u, s, vt))
    return u, s, vt


def sandwich(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """Return left @ x @ right per tile and channel, (B, C, m, n); left: (B, m, H), x: (B, C, H, W),
    right: (B, W, n).

    On a CPU it goes tile by tile, so that no tile depends on its batch.
    """
    left = left.to(x.dtype)[:, None]
    right = right.to(x.dtype)[:, None]
    if x.device.type != "cpu":
        return left @ x @ right
    tiles = zip(left.split(1), x.split(1), right.split(1), strict=True)
    return torch.cat([before @ tile @ after for before, tile, after in tiles])
