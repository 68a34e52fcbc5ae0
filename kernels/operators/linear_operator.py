"""The interface of degradation operators A with a generalised inverse A+.

Every operator keeps A A+ A = A. All maps act on batches (B, C, H, W) of any floating type. H and W
are multiples of `alignment`, and cropping such a window commutes with A. Every A+ is the
Moore-Penrose inverse unless its operator says otherwise, so that A+A is the orthogonal projector
onto the range space (Wang et al. 2023, DDNM, section 3), and all nonzero singular values that meet
in one pixel are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kernels.operators.bounded_change import Limits


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
    """(B, W), the same for columns."""


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
        """Return A+ y, the picture of least norm that measures y, where y can be measured."""
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

    def finish(
        self,
        x: Tensor,
        y: Tensor,
        free: Free,
        tolerance: float,
    ) -> Tensor:
        """Return the result x with |A x - y| <= tolerance again after pinning; cells that no pin
        cuts need nothing.
        """
        return x

    def finish_within(
        self,
        x: Tensor,
        y: Tensor,
        free: Free,
        tolerance: float,
        limits: Limits,
    ) -> Tensor:
        """Return what `finish` has left with its free pixels within black and white, and
        |A x - y| <= tolerance again as nearly as that can be; pinned pixels stay.
        """
        within = torch.minimum(torch.maximum(x, _tensor(limits.low, x)), _tensor(limits.high, x))
        return torch.where(free.pixels, within, x)


def _tensor(value: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
