"""Degradation operators A with a generalised inverse A+, and the law that every one of them obeys:
A A+ A = A.

All maps act on batches (B, C, H, W) of any floating type. H and W are multiples of `alignment`, and
cropping such a window commutes with A. Every A+ here is the Moore-Penrose inverse, so that A+A is
the orthogonal projector onto the range space (Wang et al. 2023, DDNM, section 3), and all nonzero
singular values that meet in one pixel are equal.

    operator            A                                    A+                            singular value
    Identity()          x                                    y                             1
    AveragePool(k)      mean of k x k cells                  replicate                     1/k
    Grey(C)             mean of the channels                 copy to each channel          1/sqrt(C)
    Mask(m)             m x                                  m y                           m
    MaskedPool(k, m)    mean of a cell's n known pixels      spread to the known pixels    m/sqrt(n)
    Compose(f, g)       f g x                                g+ f+ y                       product
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Weight(Protocol):
    """Multiply pictures: a number per pixel, or a function of an operator's singular values."""

    def __mul__(self, other: Tensor, /) -> Tensor: ...

    def __sub__(self, other: Tensor, /) -> Weight: ...


class Free(NamedTuple):
    """Tell which pixels of a tile may still change; bool."""

    pixels: Tensor
    """(B, 1, H, W), true where nothing is pinned."""
    rows: Tensor
    """(B, H), true for the rows that no earlier tile has reached: where they cross such columns,
    nothing is pinned.
    """
    cols: Tensor
    """(B, W)."""


class Operator(Protocol):
    """Map pictures to measurements and back."""

    @property
    def scale(self) -> int:
        """Give the number of output pixels per measurement pixel, along each axis."""
        return 1

    @property
    def alignment(self) -> int:
        """Give the number of pixels that window starts and sides must be multiples of."""
        return self.scale

    @property
    def surjective(self) -> bool:
        """Tell whether A A+ = 1, which makes the operator fit to be the inner part of a
        composition.
        """
        return True

    def A(self, x: Tensor) -> Tensor:
        """Measure x (B, C, H, W)."""
        ...

    def pinv(self, y: Tensor) -> Tensor:
        """Return A+ y, the picture of least norm that measures y (where y can be measured at all)."""
        ...

    def singular_values(self, x: Tensor) -> float | Tensor:
        """Return the nonzero singular value, or a map that broadcasts to x and is 0 where nothing
        is measured.
        """
        ...

    def range_project(self, x: Tensor) -> Tensor:
        """Return A+A x, the part of x that the measurement determines."""
        return self.pinv(self.A(x))

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x + A+(y - A x), the nearest picture that measures y (paper Eq. 9)."""
        return x + self.pinv(y - self.A(x))

    def weights(
        self, x: Tensor, f: Callable[[float | Tensor], tuple[Tensor, ...]]
    ) -> tuple[Weight, ...]:
        """Return functions of the singular values, computed together by f, as weights that multiply
        pictures.
        """
        return f(self.singular_values(x))

    def finish(self, x: Tensor, y: Tensor, free: Free, tolerance: float) -> Tensor:
        """Return the result x with |A x - y| <= tolerance again after pinning; cells that no pin
        cuts need nothing.
        """
        return x


@dataclass(frozen=True, slots=True)
class Identity(Operator):
    """Measure the picture itself; with sigma_y > 0 the task is denoising."""

    def A(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def pinv(self, y: Tensor) -> Tensor:
        """Return y."""
        return y

    def singular_values(self, x: Tensor) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, slots=True)
class AveragePool(Operator):
    """Average cells of scale x scale pixels: super-resolution, and the guide of a coarser level."""

    # field() without a default, or the dataclass would take the protocol's property for one.
    scale: int = field()

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H/k, W/k)."""
        return F.avg_pool2d(x, self.scale)

    def pinv(self, y: Tensor) -> Tensor:
        """Return (B, C, H, W) with every measurement pixel repeated k x k times."""
        return replicate(y, self.scale)

    def singular_values(self, x: Tensor) -> float:
        """Return 1/k."""
        return 1.0 / self.scale


@dataclass(frozen=True, slots=True)
class Grey(Operator):
    """Average the channels: colorization."""

    channels: int = 3

    def A(self, x: Tensor) -> Tensor:
        """Return (B, 1, H, W); raise ValueError when x has another number of channels."""
        if x.shape[1] != self.channels:
            raise ValueError(f"{name(self)} got {x.shape[1]} channels; give it {self.channels}")
        # Spelled out, because a reduction may add in another order for another batch size.
        return reduce(torch.add, (x[:, c : c + 1] for c in range(self.channels))) / self.channels

    def pinv(self, y: Tensor) -> Tensor:
        """Return (B, C, H, W) with every channel equal to y; a map that already broadcasts is
        copied the same way.
        """
        return y.expand(-1, self.channels, -1, -1)

    def singular_values(self, x: Tensor) -> float:
        """Return 1/sqrt(C)."""
        return 1.0 / math.sqrt(self.channels)


@dataclass(frozen=True, slots=True, eq=False)
class Mask(Operator):
    """Keep the known pixels: inpainting and outpainting."""

    mask: Tensor
    """(B, 1, H, W) or (B, C, H, W), bool or 0 and 1; true where the pixel is known."""

    @property
    def surjective(self) -> bool:
        """Tell that unknown pixels of a measurement cannot be reached."""
        return False

    def A(self, x: Tensor) -> Tensor:
        """Return x with 0 at the unknown pixels."""
        return torch.where(self.mask.bool(), x, 0.0)

    def pinv(self, y: Tensor) -> Tensor:
        """Return y with 0 at the unknown pixels, whatever y holds there."""
        return torch.where(self.mask.bool(), y, 0.0)

    def singular_values(self, x: Tensor) -> Tensor:
        """Return the mask as a map of 0 and 1."""
        return self.mask.to(x.dtype)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x overwritten by the known pixels, bit for bit."""
        return torch.where(self.mask.bool(), y, x)


@dataclass(frozen=True, slots=True, eq=False)
class MaskedPool(Operator):
    """Average each cell over its known pixels only, in the normalised form that keeps A A+ A = A.

    sigma_y of such a measurement is the noise of the averages, not of the pixels. A cell without
    known pixels measures 0 and constrains nothing.
    """

    scale: int = field()
    mask: Tensor
    """(B, 1, H, W) or (B, C, H, W), bool or 0 and 1; true where the pixel is known."""

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    @property
    def surjective(self) -> bool:
        """Tell that a cell without known pixels cannot be reached."""
        return False

    def known_counts(self, dtype: torch.dtype) -> Tensor:
        """Return the number of known pixels of every cell, (B, 1 or C, H/k, W/k)."""
        return _cell_sums(self.mask.to(dtype), self.scale)

    def A(self, x: Tensor) -> Tensor:
        """Return (B, C, H/k, W/k), 0 for a cell without known pixels."""
        sums = _cell_sums(torch.where(self.mask.bool(), x, 0.0), self.scale)
        return sums / self.known_counts(x.dtype).clamp(min=1)

    def pinv(self, y: Tensor) -> Tensor:
        """Return (B, C, H, W), y at the known pixels of each cell and 0 at the others."""
        return torch.where(self.mask.bool(), replicate(y, self.scale), 0.0)

    def singular_values(self, x: Tensor) -> Tensor:
        """Return the map of 1/sqrt(known pixels of the cell), 0 at unknown pixels."""
        return self.pinv(1.0 / self.known_counts(x.dtype).clamp(min=1).sqrt())


@dataclass(frozen=True, slots=True, eq=False)
class Compose(Operator):
    """Apply `inner`, then `outer`.

    The inner operator must be surjective (A A+ = 1): then g+ f+ is a generalised inverse of f g. A
    mask inside breaks A A+ A = A (a pooled mask errs by 0.3) and is refused with a ValueError that
    names the valid form.
    """

    outer: Operator
    inner: Operator

    def __post_init__(self) -> None:
        if not self.inner.surjective:
            raise ValueError(
                f"{name(self.outer)} after {name(self.inner)} breaks A A+ A = A, as {name(self.inner)} leaves gaps; "
                "mask last, or pool the known pixels with MaskedPool"
            )

    @property
    def scale(self) -> int:
        """Give the product of both scales."""
        return self.outer.scale * self.inner.scale

    @property
    def alignment(self) -> int:
        """Give the least alignment that serves both parts, px."""
        return math.lcm(self.inner.alignment, self.inner.scale * self.outer.alignment)

    @property
    def surjective(self) -> bool:
        """Tell whether both parts are."""
        return self.outer.surjective

    def A(self, x: Tensor) -> Tensor:
        """Return outer(inner(x))."""
        return self.outer.A(self.inner.A(x))

    def pinv(self, y: Tensor) -> Tensor:
        """Return inner+(outer+(y))."""
        return self.inner.pinv(self.outer.pinv(y))

    def singular_values(self, x: Tensor) -> float | Tensor:
        """Return the product; a map of the outer part is lifted to x, since every inner A+ here
        copies values.
        """
        inner = self.inner.singular_values(x)
        outer = self.outer.singular_values(x)
        return inner * (self.inner.pinv(outer) if isinstance(outer, Tensor) else outer)


def compose(*operators: Operator) -> Operator:
    """Chain operators, the outermost first: compose(f, g, h) measures f(g(h(x))); errors as for
    `Compose`.
    """
    if not operators:
        raise ValueError("compose needs at least one operator; give Identity() for none")
    return reduce(Compose, operators)


def name(operator: Operator) -> str:
    """Return how messages call an operator, as in "AveragePool(4) after Grey"."""
    match operator:
        case AveragePool(scale=k) | MaskedPool(scale=k):
            return f"{type(operator).__name__}({k})"
        case Compose(outer=outer, inner=inner):
            return f"{name(outer)} after {name(inner)}"
    return type(operator).__name__


def replicate(y: Tensor, scale: int) -> Tensor:
    """Repeat every pixel scale x scale times: (B, C, h, w) -> (B, C, h*scale, w*scale)."""
    b, c, h, w = y.shape
    return (
        y[:, :, :, None, :, None]
        .expand(b, c, h, scale, w, scale)
        .reshape(b, c, h * scale, w * scale)
    )


def _cell_sums(x: Tensor, scale: int) -> Tensor:
    return F.avg_pool2d(x, scale, divisor_override=1)


def _check_scale(scale: int) -> None:
    if scale < 1:
        raise ValueError(f"scale {scale} is no cell size; choose a whole number of at least 1")
