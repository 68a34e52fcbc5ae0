"""The keyed noise source: a tile's noise is a function of (seed, level, row, column, band group,
draw index) and of nothing else.

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

NoiseKey = tuple[int, int, int] | tuple[int, int, int, int]
"""(level, row, column) of a tile, and the group of bands that a picture holds; 0 where left out.

Groups other than 0 draw with a key of their own, so that bands which are independent get invented
detail that is: with shared noise it correlates, which would be false colocalisation.
"""

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
        draws = zip(keys, index, strict=True)
        tiles = [self._tile(key, i, shape, device) for key, i in draws]
        return torch.stack(tiles)

    def _tile(
        self,
        key: NoiseKey,
        index: int,
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> Tensor:
        """Return draw `index` of one tile, (C, H, W) float32."""
        level, row, col = key[:3]
        group = key[3] if len(key) == 4 else 0
        _check_key(key, index)
        count = math.prod(shape)
        # Each counter gives four words, and two words give two deviates.
        counters = -(-count // 4)
        block = torch.arange(counters, dtype=torch.int64, device=device)
        place = level << _DRAW_BITS | index
        w0, w1, w2, w3 = philox4x32(block, place, row, col, key=self._key(group))

        first = box_muller(w0, w1)
        second = box_muller(w2, w3)
        deviates = torch.stack((*first, *second), dim=-1).reshape(-1)
        return deviates[:count].reshape(shape)

    def _key(self, group: int) -> tuple[int, int]:
        """Return the cipher's key for a group of bands: the seed, or a block encrypted with it.

        The counter of that block is one that no draw of a tile has: level 255, the last draw.
        """
        seed = (self.seed & _LOW, self.seed >> 32)
        if group == 0:
            return seed
        counter = torch.tensor([group], dtype=torch.int64)
        words = philox4x32(counter, _LOW, _LOW, _LOW, key=seed)
        return int(words[0]), int(words[1])


def _check_key(key: NoiseKey, index: int) -> None:
    """Raise ValueError unless key and draw index fit into the counter's words."""
    level, row, col = key[:3]
    fits = (
        0 <= level < _LEVELS,
        0 <= row <= _LOW,
        0 <= col <= _LOW,
        all(0 <= group <= _LOW for group in key[3:]),
        0 <= index < 1 << _DRAW_BITS,
    )
    if not all(fits):
        raise ValueError(
            f"noise key {key}, draw {index}: "
            "level < 256, row, col and group < 2^32, draw < 2^24 are needed"
        )


def philox4x32(
    c0: Tensor,
    c1: int | Tensor,
    c2: int | Tensor,
    c3: int | Tensor,
    key: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Encrypt the counter (c0, c1, c2, c3) with the key in ten rounds.

    Counters: int64 tensors (or ints) that hold 32-bit words and broadcast; result: four int64
    tensors of 32-bit words. The 32 x 32 bit product wraps around int64, whose bits are the wanted
    ones once the sign has been masked off.
    """
    k0, k1 = key
    w0, w1, w2, w3 = (
        torch.as_tensor(c, dtype=torch.int64, device=c0.device) for c in (c0, c1, c2, c3)
    )
    for _ in range(_ROUNDS):
        p0 = w0 * _M0
        p1 = w2 * _M1
        w0 = (p1 >> 32 & _LOW) ^ w1 ^ k0
        w2 = (p0 >> 32 & _LOW) ^ w3 ^ k1
        w1 = p1 & _LOW
        w3 = p0 & _LOW
        k0 = k0 + _W0 & _LOW
        k1 = k1 + _W1 & _LOW
    return w0, w1, w2, w3


def box_muller(w0: Tensor, w1: Tensor) -> tuple[Tensor, Tensor]:
    """Turn two 32-bit words into two independent standard normal deviates, float32, at most 6.8 in
    size.
    """
    uniform = (w0.double() + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(uniform))
    angle = w1.double() * (2.0 * math.pi * 2.0**-32)
    first = radius * torch.cos(angle)
    second = radius * torch.sin(angle)
    return first.float(), second.float()
