"""The keyed noise source: a tile's noise is a function of (seed, level, row, column, draw index)
and of nothing else.

Counter-based, so that no generator state exists that a batch, a worker, a retry or another device
could advance. Random bits: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"). Normal deviates: Box-Muller in float64, rounded once to float32; the bits are the same on
every device, and so are the deviates but for a rare last place where two maths libraries disagree
about a logarithm or a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

NoiseKey = tuple[int, int, int]
"""(level, row, column) of a tile."""

# Multipliers and key increments of Philox4x32 (Salmon et al. 2011, table 2 and section 3.3).
_M0 = 0xD2511F53
_M1 = 0xCD9E8D57
_W0 = 0x9E3779B9
_W1 = 0xBB67AE85
_LOW = 0xFFFFFFFF
_ROUNDS = 10

# The second counter word holds the level in its upper 8 bits and the draw index in its lower 24.
_DRAW_BITS = 24
_LEVELS = 1 << (32 - _DRAW_BITS)


class NoiseSource(Protocol):
    """Give the standard normal noise of tiles, one draw at a time."""

    def draw(
        self,
        keys: Sequence[NoiseKey],
        index: Sequence[int],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> Tensor:
        """Return (B, C, H, W) float32: draw index[i] of tile keys[i] for every i; shape is (C, H,
        W).
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyedNoise:
    """Draw every tile's noise from its key, tile by tile, so that it never depends on the batch."""

    seed: int
    """Any integer in [0, 2^64)."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed {self.seed} does not fit into 64 bits; choose one in [0, 2^64)")

    def draw(
        self,
        keys: Sequence[NoiseKey],
        index: Sequence[int],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> Tensor:
        """Return (B, C, H, W) float32 standard normal; raise ValueError for a key or index out of
        range.
        """
        return torch.stack(
            [self._tile(key, i, shape, device) for key, i in zip(keys, index, strict=True)]
        )

    def _tile(
        self, key: NoiseKey, index: int, shape: tuple[int, int, int], device: torch.device
    ) -> Tensor:
        level, row, col = key
        limits = zip(
            (level, row, col, index), (_LEVELS, 1 << 32, 1 << 32, 1 << _DRAW_BITS), strict=True
        )
        if not all(0 <= value < limit for value, limit in limits):
            raise ValueError(
                f"noise key {key}, draw {index}: level < 256, row and col < 2^32, draw < 2^24 are needed"
            )
        count = math.prod(shape)
        block = torch.arange(-(-count // 4), dtype=torch.int64, device=device)
        words = philox4x32(
            block, level << _DRAW_BITS | index, row, col, key=(self.seed & _LOW, self.seed >> 32)
        )
        first = box_muller(words[0], words[1])
        second = box_muller(words[2], words[3])
        return torch.stack((*first, *second), dim=-1).reshape(-1)[:count].reshape(shape)


def philox4x32(
    c0: Tensor, c1: int | Tensor, c2: int | Tensor, c3: int | Tensor, key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Encrypt the counter (c0, c1, c2, c3) with the key in ten rounds.

    Counters: int64 tensors (or ints) that hold 32-bit words and broadcast; result: four int64
    tensors of 32-bit words. The 32 x 32 bit product wraps around int64, whose bits are the wanted
    ones once the sign has been masked off.
    """
    k0, k1 = key
    words = [torch.as_tensor(c, dtype=torch.int64, device=c0.device) for c in (c0, c1, c2, c3)]
    for _ in range(_ROUNDS):
        p0 = words[0] * _M0
        p1 = words[2] * _M1
        words = [
            (p1 >> 32 & _LOW) ^ words[1] ^ k0,
            p1 & _LOW,
            (p0 >> 32 & _LOW) ^ words[3] ^ k1,
            p0 & _LOW,
        ]
        k0 = k0 + _W0 & _LOW
        k1 = k1 + _W1 & _LOW
    return words[0], words[1], words[2], words[3]


def box_muller(w0: Tensor, w1: Tensor) -> tuple[Tensor, Tensor]:
    """Turn two 32-bit words into two independent standard normal deviates, float32, at most 6.8 in
    size.
    """
    radius = torch.sqrt(-2.0 * torch.log((w0.double() + 0.5) * 2.0**-32))
    angle = w1.double() * (2.0 * math.pi * 2.0**-32)
    return (radius * torch.cos(angle)).float(), (radius * torch.sin(angle)).float()
