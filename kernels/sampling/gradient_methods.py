"""Methods that differentiate the network: PiGDM and DPS, by one vector-Jacobian product per step
and tile.

J = d x0 / d x_t of the clean estimate, the clamp included. On the CPU one tile's activations are
kept at a time; on other devices those of the batch, 2 to 4 times the memory of a forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from kernels.denoisers.denoiser import Denoiser
from kernels.sampling.clean_estimate import Query
from kernels.sampling.constraints import Problem, RangeSpace
from kernels.sampling.method_registry import describe_method
from kernels.sampling.methods import Method, Moment, Shape, check_singular_values
from kernels.sampling.step_coefficients import SamplerConfig, Step

Pull = Callable[[Tensor], Tensor]
"""v -> J^T v, both (B, C, H, W); once."""

# Number of values of a tile for which the length of a DPS step was published.
PUBLISHED_VALUES = 3 * 256 * 256
# Keeps a residual of 0 from dividing.
TINY = 1e-12


class Push(Protocol):
    """Say what is drawn from the network's derivative."""

    def push(
        self,
        x0: Tensor,
        pull: Pull,
        problem: Problem,
        step: Step,
    ) -> Tensor:
        """Return `Moment.push` of a few tiles from their clean estimate."""
        ...


class GradientMethod(Method, Push, Protocol):
    """Say what a method draws from the network's derivative."""


class Pigdm(GradientMethod):
    """Follow the score of the measurement under x_0 ~ N(x0(x_t), r_t^2) (Song et al. 2023, Eq. 7
    and 8).

    g = J^T A^T (A A^T + sigma_y^2/r_t^2)^-1 (y - A x0). All constraints enter as one: for aligned
    tiles the projections commute, and projecting on one after the other is the correction of the
    stacked operator. Known pixels are besides overwritten in the clean estimate.

    Form eps is the published algorithm, x_{t-1} += a_t g. In form posterior x^ is the conditional
    estimate that the score implies, x0 + s^2/(a r_t^2) g: exact where the prior is white with the
    variance behind r_t^2.
    """

    info = describe_method("pigdm")

    def __init__(self, config: SamplerConfig) -> None:
        self.variance = config.parameters.pigdm_variance
        self.published = config.step_form == "eps"
        self.clip = config.clip

    def check(self, problem: Problem, shape: Shape) -> None:
        """Refuse a noisy measurement whose singular values are not known."""
        measurement = problem.measurement
        if measurement is not None and measurement.sigma_y > 0:
            check_singular_values(measurement, shape, "pigdm (with sigma_y > 0)")

    def push(
        self,
        x0: Tensor,
        pull: Pull,
        problem: Problem,
        step: Step,
    ) -> Tensor:
        """Return g."""
        lam = None
        measurement = problem.measurement
        if measurement is not None and measurement.sigma_y > 0:
            noise = measurement.sigma_y**2 / self._doubt(step)
            (lam,) = measurement.operator.weights(x0, lambda v: (v * v / (v * v + noise),))
        correction = problem.project(x0, lam) - x0
        return pull(correction)

    def correct(self, m: Moment, weights: RangeSpace | None) -> Tensor:
        """Return the estimate to step from, known pixels overwritten."""
        x_hat = m.x0
        step = m.step
        if m.push is not None and not self.published:
            gain = step.s**2 / (step.a * self._doubt(step))
            x_hat = x_hat + gain * m.push
            if self.clip:
                x_hat = m.problem.within(x_hat)
        return _pinned(m.problem, x_hat)

    def post(
        self,
        m: Moment,
        x_next: Tensor,
        z: Tensor | None,
        extra: Tensor | None,
    ) -> Tensor:
        """Add the published guidance."""
        if not self.published:
            return x_next
        return _pushed(m, x_next, m.step.a)

    def finish(self, m: Moment, x_hat: Tensor) -> Tensor:
        """Take the last guidance and make the constraints exact."""
        guided = self.post(m, x_hat, None, None)
        return m.problem.close(guided)

    def _doubt(self, step: Step) -> Tensor:
        """Return r_t^2, the variance of x_0 given x_t under a white prior."""
        signal = step.a**2 * self.variance
        noise = step.s**2
        return self.variance * noise / (signal + noise)


class Dps(GradientMethod):
    """Descend the norm of the residual: x_{t-1} -= zeta_t grad_{x_t} |y - A x0(x_t)| (Chung et al.
    2023, Algorithm 1).

    The guide's and the known pixels' residuals stand in the same norm; known pixels are besides
    overwritten in the clean estimate. zeta_t: see `MethodConfig.zeta`.
    """

    info = describe_method("dps")

    def __init__(self, zeta: float) -> None:
        self.zeta = zeta

    def push(
        self,
        x0: Tensor,
        pull: Pull,
        problem: Problem,
        step: Step,
    ) -> Tensor:
        """Return -zeta_t times the gradient of the norm."""
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_(True)
            square = square_residual(problem, leaf)
            (down,) = torch.autograd.grad(0.5 * square.sum(), leaf)
        norm = square.detach().sqrt()[:, None, None, None]
        gradient = pull(down) / norm.clamp(min=TINY)

        # Never beyond the point where a linear residual would vanish.
        steepness = gradient.square().flatten(1).sum(1)[:, None, None, None]
        farthest = norm / steepness.clamp(min=TINY)
        values = math.prod(x0.shape[1:])
        length = self.zeta * math.sqrt(values / PUBLISHED_VALUES) * step.span
        return -torch.minimum(length, farthest) * gradient

    def correct(self, m: Moment, weights: RangeSpace | None) -> Tensor:
        """Return the unconditional estimate, known pixels overwritten."""
        return _pinned(m.problem, m.x0)

    def post(
        self,
        m: Moment,
        x_next: Tensor,
        z: Tensor | None,
        extra: Tensor | None,
    ) -> Tensor:
        """Take the gradient step."""
        return _pushed(m, x_next, 1.0)

    def finish(self, m: Moment, x_hat: Tensor) -> Tensor:
        """Take the last gradient step and make the constraints exact."""
        stepped = self.post(m, x_hat, None, None)
        return m.problem.close(stepped)


def square_residual(problem: Problem, x0: Tensor) -> Tensor:
    """Return the squared norm of all residuals of every tile, (B,); x0: (B, C, H, W)."""
    parts = []
    for measurement in (problem.guide, problem.measurement):
        if measurement is not None:
            operator = measurement.operator
            # A A+ y: nothing outside the range of A counts, such as what y holds at masked pixels.
            wanted = operator.A(operator.pinv(measurement.y))
            parts.append(wanted - operator.A(x0))
    if problem.known is not None:
        known = problem.known
        parts.append(torch.where(known.mask, known.value - x0, 0.0))
    squares = [part.square().flatten(1).sum(1) for part in parts]
    return torch.stack(squares).sum(0)


def evaluate_with_gradient(
    denoiser: Denoiser, method: Push, query: Query
) -> tuple[Tensor, Tensor, Tensor]:
    """Return eps, the clean estimate and `Moment.push`, each (B, C, H, W); on the CPU tile by tile.

    A shift of the query has no derivative of its own.
    """
    batches = [query]
    if query.x.device.type == "cpu" and len(query.x) > 1:
        batches = [query.select([tile]) for tile in range(len(query.x))]

    parts = []
    for tiles in batches:
        x_t = tiles.x.clone().requires_grad_(True)
        with torch.enable_grad():
            answer = denoiser(x_t, tiles.timesteps).contiguous()
            eps, x0 = tiles.answered(answer, x_t)

        pull = _pull(x0, x_t)
        push = method.push(x0.detach(), pull, tiles.problem, tiles.step)
        parts.append((eps.detach(), x0.detach(), push))
        del answer, eps, x0, pull  # the graph: free before the next tile builds its own
    eps, x0, push = (torch.cat(column) for column in zip(*parts, strict=True))
    return eps, x0, push


def _pull(x0: Tensor, x_t: Tensor) -> Pull:
    def pull(v: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(x0, x_t, v)
        return gradient

    return pull


def _pinned(problem: Problem, x_hat: Tensor) -> Tensor:
    """Return x^ with the known pixels overwritten, if there are any."""
    if problem.known is None:
        return x_hat
    return problem.known.project(x_hat)


def _pushed(m: Moment, x: Tensor, weight: float | Tensor) -> Tensor:
    """Return x + weight push outside the known pixels, which have their value already."""
    if m.push is None:
        return x
    moved = x + weight * m.push
    known = m.problem.known
    if known is None:
        return moved
    return torch.where(known.mask, x, moved)
