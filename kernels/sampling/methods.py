"""Zero-shot methods as strategies of one loop: where guide, measurement and known pixels enter a
reverse step.

A method acts on the clean estimate (`correct`), on the stepped state (`post`), or on both; what it
leaves to be made exact is closed at t = 0 (`finish`). Schedule, step, noise, time travel and warm
start are the sampler's.

    ddnm      correct: x0 -> x^ on all constraints, noise by range and null space when y is noisy
    ddrm      the same in form eps, always by range and null space, with eta_b; its start is
              conditioned on y too
    ilvr      post: the measured part of x_{t-1} <- that of the noised measurement; the same for the
              guide; known pixels are noised
    repaint   the same for a mask, where it is an overwriting by the noised known pixels
    pigdm     `kernels.sampling.gradient_methods`
    dps       `kernels.sampling.gradient_methods`
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kernels.operators.compose import operator_name
from kernels.operators.elementary import Mask
from kernels.operators.linear_operator import Operator
from kernels.sampling.constraints import (
    Known,
    Measurement,
    Problem,
    RangeSpace,
    ddnm_plus,
    range_space,
    select,
    to,
)
from kernels.sampling.method_registry import MethodInfo, describe_method
from kernels.sampling.step_coefficients import Step

Shape = tuple[int, int, int]
"""(C, H, W), px."""

# A projector that is not orthogonal, or a second singular value, misses these equations by tenths;
# float32 by 1e-6.
EQUATION_TOLERANCE = 1e-3


class Moment(NamedTuple):
    """Hold a batch in the middle of a reverse step; all tensors (B, C, H, W) float32."""

    step: Step
    problem: Problem
    x: Tensor
    """x_t."""
    eps: Tensor
    x0: Tensor
    """The network's clean estimate, clamped if the process clamps."""
    push: Tensor | None
    """What a gradient method draws from the network's derivative; None without constraints."""


class Method(Protocol):
    """Say what a method does to a reverse step; the defaults do nothing."""

    info: MethodInfo

    def check(self, problem: Problem, shape: Shape) -> None:
        """Raise ValueError when the method cannot do the task on tiles of shape (C, H, W)."""
        return

    def begin(
        self,
        problem: Problem,
        picture: Tensor,
        x: Tensor,
        a: float,
        s: float,
        z: Tensor | None,
    ) -> Tensor:
        """Return the first state; x = a picture + s z is the usual one, the picture 0 without a
        warm start.
        """
        return x

    def weights(self, m: Moment) -> RangeSpace | None:
        """Return how correction and noise divide between range and null space; None: not."""
        return None

    def correct(self, m: Moment, weights: RangeSpace | None) -> Tensor:
        """Return x^ of x0."""
        return m.x0

    def post(
        self,
        m: Moment,
        x_next: Tensor,
        z: Tensor | None,
        extra: Tensor | None,
    ) -> Tensor:
        """Return x_{t-1} after the step; z: the step's own draw, extra: the second one (None when
        nothing is drawn).
        """
        return x_next

    def finish(self, m: Moment, x_hat: Tensor) -> Tensor:
        """Return the result of a tile at t = 0 from its x^: noise-free constraints exact, known
        pixels bit-equal.
        """
        return m.problem.close(x_hat)


class Ddnm(Method):
    """Replace the range-space part of the clean estimate (Wang et al. 2023, DDNM and DDNM+)."""

    info = describe_method("ddnm")

    def __init__(self, scalar: bool = False, noise_scale: float = 1.0) -> None:
        self.scalar = scalar
        self.noise_scale = noise_scale

    def weights(self, m: Moment) -> RangeSpace | None:
        """Weigh by range and null space when the measurement is noisy."""
        measurement = m.problem.measurement
        if measurement is None or measurement.sigma_y == 0:
            return None
        step = m.step
        return range_space(
            measurement,
            self.scalar,
            step.mean_x0,
            step.tau,
            step.eta,
            m.x,
            self.noise_scale,
        )

    def correct(self, m: Moment, weights: RangeSpace | None) -> Tensor:
        """Project on guide, measurement, known."""
        lam = None if weights is None else weights.lam
        return m.problem.project(m.x0, lam)

    def finish(self, m: Moment, x_hat: Tensor) -> Tensor:
        """Return x^, which every step makes exact."""
        return x_hat


class Ddrm(Method):
    """Mix estimate, measurement and noise so that every measured direction has the step's variance
    (Kawar et al.).

    Form eps with a' and s' in place of a step's coefficients: lam and fresh noise of `ddnm_plus`
    for every singular value of the range, the network's eps in the null space only.
    """

    info = describe_method("ddrm")

    def __init__(self, eta_b: float = 1.0, noise_scale: float = 1.0) -> None:
        self.eta_b = eta_b
        self.noise_scale = noise_scale

    def check(self, problem: Problem, shape: Shape) -> None:
        """Refuse operators whose singular values are not known."""
        if problem.measurement is not None:
            check_singular_values(problem.measurement, shape, "ddrm")

    def begin(
        self,
        problem: Problem,
        picture: Tensor,
        x: Tensor,
        a: float,
        s: float,
        z: Tensor | None,
    ) -> Tensor:
        """Start the measured directions at the measurement, as noisy as the others."""
        measurement = problem.measurement
        if measurement is None:
            return x
        operator = measurement.operator
        alpha, tau, all_fresh = x.new_tensor((a, s, 1.0))
        lam, fresh = operator.weights(
            x,
            lambda v: ddnm_plus(alpha, tau, all_fresh, measurement.sigma_y, v),
        )
        correction = operator.pinv(measurement.y - operator.A(picture))
        x = x + a * (lam * correction)
        if z is None:
            return x
        return x + (fresh - tau) * operator.range_project(z)

    def weights(self, m: Moment) -> RangeSpace | None:
        """Weigh by range and null space, noisy or not."""
        measurement = m.problem.measurement
        if measurement is None:
            return None
        step = m.step

        def shares(v: float | Tensor) -> tuple[Tensor, Tensor]:
            return ddnm_plus(
                step.mean_x0,
                step.tau,
                step.eta,
                measurement.sigma_y,
                v,
                eta_b=self.eta_b,
                noise_scale=self.noise_scale,
            )

        lam, fresh = measurement.operator.weights(m.x, shares)
        return RangeSpace(measurement.operator, lam, fresh)

    def correct(self, m: Moment, weights: RangeSpace | None) -> Tensor:
        """Project on guide, measurement, known."""
        lam = None if weights is None else weights.lam
        return m.problem.project(m.x0, lam)

    def post(
        self,
        m: Moment,
        x_next: Tensor,
        z: Tensor | None,
        extra: Tensor | None,
    ) -> Tensor:
        """Noise known pixels afresh, being exact whatever the measurement says of them."""
        return noised_known(m.problem.known, m.step, x_next, z)


class Replacement(Method):
    """Replace the measured part of x_{t-1} by that of the noised measurement (Choi et al. 2021,
    Lugmayr et al. 2022).

    A noisy measurement takes part while the step's noise covers its own, and only the missing noise
    is added.
    """

    def __init__(self, info: MethodInfo, stop: int = 0) -> None:
        self.info = info
        self.stop = stop

    def check(self, problem: Problem, shape: Shape) -> None:
        """Refuse anything but a mask where the method knows no more."""
        measurement = problem.measurement
        if self.info.takes != "mask" or measurement is None:
            return
        operator = measurement.operator
        if not isinstance(operator, Mask):
            raise ValueError(
                f"method {self.info.name} restores masked pixels only, "
                f"not {operator_name(operator)}; use ilvr, or ddnm"
            )

    def post(
        self,
        m: Moment,
        x_next: Tensor,
        z: Tensor | None,
        extra: Tensor | None,
    ) -> Tensor:
        """Bring guide, then measurement, then known pixels to the level of x_{t-1}, with one draw
        for all.
        """
        on = m.step.timestep > self.stop
        for measurement in (m.problem.guide, m.problem.measurement):
            if measurement is not None:
                x_next = _replaced(measurement, m.step, x_next, extra, on)
        return noised_known(m.problem.known, m.step, x_next, extra)


def _replaced(
    measurement: Measurement,
    step: Step,
    x: Tensor,
    z: Tensor | None,
    on: Tensor,
) -> Tensor:
    """Return x + A+(a' y + A(s' z - x)) where `on`: A x is then the noised measurement (noisy: see
    `_taking_part`).
    """
    operator = measurement.operator
    target = step.a_next * measurement.y
    if measurement.sigma_y == 0:
        rest = -x if z is None else step.s_next * z - x
        moved = x + operator.pinv(target + operator.A(rest))
    else:
        part, fresh = operator.weights(x, lambda v: _taking_part(step, measurement.sigma_y, v))
        correction = operator.pinv(target - operator.A(x))
        moved = x + part * correction
        if z is not None:
            moved = moved + fresh * operator.range_project(z)
    return torch.where(on, moved, x)


def _taking_part(step: Step, sigma_y: float, s: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 where the noise s' covers the measurement's, else 0, and the fresh noise that is
    then missing.

    s: singular values, as for `ddnm_plus`, whose rule this is with eta = 1: correct fully or not at
    all.
    """
    all_fresh = torch.ones_like(step.a)
    lam, fresh = ddnm_plus(step.a_next, step.s_next, all_fresh, sigma_y, s)
    return lam, torch.where(lam > 0, fresh, 0.0)


def noised_known(
    known: Known | None,
    step: Step,
    x: Tensor,
    z: Tensor | None,
) -> Tensor:
    """Return x with the known pixels at the level of x_{t-1}: a' value + s' z."""
    if known is None:
        return x
    level = step.a_next * known.value
    if z is not None:
        level = level + step.s_next * z
    return torch.where(known.mask, level, x)


def check_singular_values(measurement: Measurement, shape: Shape, method: str) -> None:
    """Raise ValueError unless A+A is an orthogonal projector and the operator's singular values
    those of A.

    Tried on the host, with the first tile's operator and a random picture u: |A+A u|^2 = u . A+A u
    holds for orthogonal projectors alone, and with p = A+A u then |A p|^2 = p . S^2 p.
    """
    operator: Operator = to(select(measurement, [0]), "cpu").operator
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(1, *shape, generator=generator)
    part = operator.range_project(u)
    (square,) = operator.weights(u, lambda v: (torch.as_tensor(v) ** 2,))

    orthogonal = _equal((part * part).sum(), (u * part).sum())
    measured = operator.A(part).square().sum()
    weighed = (part * (square * part)).sum()
    if not (orthogonal and _equal(measured, weighed)):
        raise ValueError(
            f"method {method} needs known singular values and an orthogonal A+A, "
            f"which {operator_name(operator)} lacks; use ddnm, or dps"
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    difference = abs(float(a - b))
    return not difference > EQUATION_TOLERANCE * abs(float(a))
