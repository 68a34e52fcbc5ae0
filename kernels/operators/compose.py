"""Chain operators, and build a task's degradation operator from its parts: pooling, grey, mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

from torch import Tensor

from kernels.operators.elementary import AveragePool, Grey, Identity, Mask, MaskedPool
from kernels.operators.linear_operator import Operator
from kernels.operators.smooth_pool import SmoothPool


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
            inner = operator_name(self.inner)
            raise ValueError(
                f"{operator_name(self)} breaks A A+ A = A, as {inner} leaves gaps; "
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
        if isinstance(outer, Tensor):
            outer = self.inner.pinv(outer)
        return inner * outer


def compose(*operators: Operator) -> Operator:
    """Chain operators, the outermost first: compose(f, g, h) measures f(g(h(x))).

    Raises ValueError without operators, and as `Compose` does.
    """
    if not operators:
        raise ValueError("compose needs at least one operator; give Identity() for none")
    return reduce(Compose, operators)


def operator_name(operator: Operator) -> str:
    """Return how messages call an operator, as in "AveragePool(4) after Grey"."""
    match operator:
        case AveragePool(scale=k) | MaskedPool(scale=k):
            return f"{type(operator).__name__}({k})"
        case Compose(outer=outer, inner=inner):
            return f"{operator_name(outer)} after {operator_name(inner)}"
    return type(operator).__name__


def measurement_operator(
    scale: int,
    *,
    grey: bool,
    known: Tensor | None,
    channels: int,
    smooth: bool = False,
) -> Operator:
    """Return A of a measurement that was pooled by `scale`, then turned grey, then lost its unknown
    pixels.

    known: (B, 1, h, w) bool in the measurement's own pixels; None when all are known. channels: of
    the picture. smooth: correct pooled measurements with the smooth inverse (noise-free ones only).
    The mask comes last because a mask before pooling breaks A A+ A = A (method.md section 4).
    """
    parts: list[Operator] = []
    if known is not None:
        parts.append(Mask(known))
    if grey:
        parts.append(Grey(channels))
    if scale > 1:
        parts.append(SmoothPool(scale) if smooth else AveragePool(scale))
    return compose(*parts) if parts else Identity()
