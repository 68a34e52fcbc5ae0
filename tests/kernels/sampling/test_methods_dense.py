"""Every method against an independent program: dense matrices in float64, from the papers' own
equations.

The prior is Gaussian with an arbitrary covariance, so that the estimate x0 = D x + e is linear and
its Jacobian is D. The operators are turned into matrices column by column; DDRM's three cases run
in the coordinates of their SVD.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch

from kernels.denoisers.analytic import GaussianDenoiser
from kernels.noise import KeyedNoise
from kernels.operators.compose import compose
from kernels.operators.elementary import AveragePool, Grey, Identity, Mask, MaskedPool
from kernels.operators.separable import Separable
from kernels.operators.stencil import gaussian
from kernels.sampling.constraints import Known, Measurement, Problem, guide
from kernels.sampling.method_registry import METHODS, MethodConfig
from kernels.sampling.sampler import SamplerConfig, sample
from kernels.schedule import Schedule, linear_alpha_bar, respaced_timesteps, time_travel

SHAPE = (3, 4, 4)
N = 48
KEY = (0, 3, 5)
NOISE = KeyedNoise(2)
OPTIONS = MethodConfig(zeta=0.7, eta_b=0.9, ilvr_stop=100, pigdm_variance=0.6)
ETA = 0.7
# Rounding of float32 inputs, carried through the steps.
TOLERANCE = 2e-4


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.6
TRUTH = 0.5 * randn(1, *SHAPE, seed=5).float()
MEAN = 0.2 * randn(*SHAPE, seed=6)
ROOT = randn(N, N, seed=7)
COVARIANCE = 0.3 * ROOT @ ROOT.T / N
LEFT = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
LEFT[..., :2] = True
OPERATORS = {
    "identity": Identity(),
    "pool": AveragePool(2),
    "grey": Grey(),
    "pool grey": compose(AveragePool(2), Grey()),
    "mask": Mask(MASK),
    "masked pool": compose(MaskedPool(2, MASK), Grey()),
    "blur": Separable.build(gaussian(0.7, 3), 4, [(0, 0, 4, 4)], 1e-6),
}


def matrix(operator):
    """Return A as a matrix, (measurements, N); rows that measure nothing are 0."""
    columns = [
        operator.A(unit.reshape(1, *SHAPE)).flatten() for unit in torch.eye(N, dtype=torch.float64)
    ]
    return torch.stack(columns, 1).numpy()


class Dense:
    """The reference: one tile as a vector of N values."""

    def __init__(self, operator, sigma_y, y, coarse, schedule, form):
        self.A = matrix(operator)
        self.y = y
        self.sigma_y = sigma_y
        self.A_guide = matrix(AveragePool(2))
        self.coarse = coarse
        self.schedule = schedule
        self.form = form
        self.known = (
            LEFT.expand(1, *SHAPE).flatten().numpy()
            if coarse is not None
            else np.zeros(N, dtype=bool)
        )
        self.pin = TRUTH.flatten().double().numpy()

    def level(self, t):
        alpha_bar = 1.0 if t < 0 else self.schedule.alpha_bar[t]
        return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)

    def estimate(self, x, t):
        a, s = self.level(t)
        gain = s * np.linalg.inv(a * a * COVARIANCE.numpy() + s * s * np.eye(N))
        eps = gain @ (x - a * MEAN.flatten().numpy())
        return (x - s * eps) / a, eps, (np.eye(N) - s * gain) / a

    def pinned(self, x):
        return np.where(self.known, self.pin, x)

    def on(self, x, A, y):
        return x + np.linalg.pinv(A) @ (y - A @ x)

    def stack(self):
        """The constraints as (A, y, noise variance): guide, measurement, known."""
        parts = [(self.A, self.y, self.sigma_y)]
        if self.coarse is not None:
            parts += [
                (self.A_guide, self.coarse, 0.0),
                (np.eye(N)[self.known], self.pin[self.known], 0.0),
            ]
        return parts

    def closed(self, x):
        if self.coarse is not None:
            x = self.on(x, self.A_guide, self.coarse)
        return self.pinned(x if self.sigma_y else self.on(x, self.A, self.y))

    def step(self, x, x_hat, eps, t, z):
        if self.form == "posterior":
            sch = self.schedule
            return sch.c1[t] * x_hat + sch.c2[t] * x + np.sqrt(sch.posterior_variance[t]) * z
        a, s = self.level(t - 1)
        return a * x_hat + s * (ETA * z + np.sqrt(1 - ETA**2) * eps)

    def run(self, method, times):
        draw = iter(range(10**6))

        def noise():
            values = NOISE.draw([KEY], [next(draw)], SHAPE, torch.device("cpu"))
            return values.double().numpy().reshape(N)

        x = self.ddrm_start(noise(), times[0]) if method == "ddrm" else noise()
        for now, then in pairwise(times):
            if then > now:
                beta = self.schedule.beta[then]
                x = np.sqrt(1 - beta) * x + np.sqrt(beta) * noise()
                continue
            z = noise()
            extra = noise() if METHODS[method].draws == 2 else None
            x = getattr(self, method)(x, now, z, extra)
        return self.closed(x)

    def replaced(self, x, t, z, stop):
        """ILVR, and RePaint as its case of a mask: phi(noised y) in place of phi(x)."""
        a, s = self.level(t - 1)
        if self.schedule.timesteps[t] > stop:
            if self.coarse is not None:
                P = np.linalg.pinv(self.A_guide)
                x = x + P @ (a * self.coarse + s * self.A_guide @ z - self.A_guide @ x)
            U, singular, Vt = np.linalg.svd(self.A)
            for i, value in enumerate(singular):
                if value > 1e-9 and s >= a * self.sigma_y / value:
                    spread = np.sqrt(s * s - (a * self.sigma_y / value) ** 2)
                    target = a * (U[:, i] @ self.y) / value + spread * Vt[i] @ z
                    x = x + Vt[i] * (target - Vt[i] @ x)
        return np.where(self.known, a * self.pin + s * z, x)

    def ilvr(self, x, t, z, extra):
        x0, eps, _ = self.estimate(x, t)
        return self.replaced(self.step(x, x0, eps, t, z), t, extra, OPTIONS.ilvr_stop)

    def repaint(self, x, t, z, extra):
        x0, eps, _ = self.estimate(x, t)
        return self.replaced(self.step(x, x0, eps, t, z), t, extra, -1)

    def ddrm_start(self, z, t):
        """x_T / a_T ~ N(y / s_i, sigma_T^2 - sigma_y^2 / s_i^2) in measured directions, N(0,
        sigma_T^2) in others.
        """
        a = self.level(t)[0]
        U, singular, Vt = np.linalg.svd(self.A)
        spectral = Vt @ z / a
        for i, value in enumerate(singular):
            if value > 1e-9 and 1 / a >= self.sigma_y / value:
                spectral[i] = (
                    U[:, i] @ self.y / value
                    + np.sqrt(1 / a**2 - (self.sigma_y / value) ** 2) * (Vt @ z)[i]
                )
        return Vt.T @ spectral * a

    def ddrm(self, x, t, z, extra):
        x0, eps, _ = self.estimate(x, t)
        if self.coarse is not None:
            x0 = self.on(x0, self.A_guide, self.coarse)
        a, s = self.level(t - 1)
        U, singular, Vt = np.linalg.svd(self.A)
        singular = np.concatenate([singular, np.zeros(N - len(singular))])
        sigma = s / a
        x0_bar = Vt @ x0
        eps_bar = Vt @ eps
        z_bar = Vt @ z
        out = np.empty(N)
        clean = x0_bar.copy()
        for i, value in enumerate(singular):
            if value < 1e-9:
                out[i] = (
                    x0_bar[i] + np.sqrt(1 - ETA**2) * sigma * eps_bar[i] + ETA * sigma * z_bar[i]
                )
                continue
            y_bar = U[:, i] @ self.y / value
            if sigma < self.sigma_y / value:
                direction = (y_bar - x0_bar[i]) / (self.sigma_y / value)
                mean = x0_bar[i] + np.sqrt(1 - ETA**2) * sigma * direction
                spread = ETA * sigma
            else:
                mean = (1 - OPTIONS.eta_b) * x0_bar[i] + OPTIONS.eta_b * y_bar
                spread = np.sqrt(sigma**2 - (OPTIONS.eta_b * self.sigma_y / value) ** 2)
            out[i] = mean + spread * z_bar[i]
            clean[i] = mean
        return np.where(self.known, a * self.pin + s * z, a * Vt.T @ out)

    def pigdm(self, x, t, z, extra):
        x0, eps, J = self.estimate(x, t)
        a, s = self.level(t)
        r2 = OPTIONS.pigdm_variance * s * s / (a * a * OPTIONS.pigdm_variance + s * s)
        A = np.concatenate([part[0] for part in self.stack()])
        residual = np.concatenate([y - B @ x0 for B, y, _ in self.stack()])
        noise = np.concatenate([np.full(len(y), sigma**2) for _, y, sigma in self.stack()])
        g = J.T @ A.T @ np.linalg.pinv(A @ A.T + np.diag(noise) / r2, rcond=1e-9) @ residual
        if self.form == "posterior":
            return self.step(x, self.pinned(x0 + s * s / (a * r2) * g), eps, t, z)
        x_next = self.step(x, self.pinned(x0), eps, t, z)
        return np.where(self.known, x_next, x_next + a * g)

    def dps(self, x, t, z, extra):
        x0, eps, J = self.estimate(x, t)
        A = np.concatenate([part[0] for part in self.stack()])
        residual = np.concatenate([B @ np.linalg.pinv(B) @ y - B @ x0 for B, y, _ in self.stack()])
        norm = np.linalg.norm(residual)
        gradient = -J.T @ A.T @ residual / norm
        span = self.schedule.timesteps[t] - (self.schedule.timesteps[t - 1] if t else -1)
        length = min(OPTIONS.zeta * np.sqrt(N / (3 * 256**2)) * span, norm / (gradient @ gradient))
        x_next = self.step(x, self.pinned(x0), eps, t, z)
        return np.where(self.known, x_next, x_next - length * gradient)


def both(method, operator, sigma_y, constrained, form, moved=0.0):
    """Return (reference, ours); `moved` shifts the measurement of the reference alone."""
    schedule = Schedule.from_timesteps(linear_alpha_bar(), respaced_timesteps(1000, 6, 800))
    times = tuple(time_travel(6, 2, 2))
    y = operator.A(TRUTH + sigma_y * randn(1, *SHAPE, seed=8).float())
    # A guide that contradicts y; the stacked inverse of PiGDM would balance the two, projections
    # let the last one win.
    coarse = AveragePool(2).A(TRUTH) + (0.0 if method == "pigdm" else 0.05)
    problem = Problem(measurement=Measurement(operator, y, sigma_y))
    if constrained:
        problem = Problem(guide(coarse, 2), problem.measurement, Known(LEFT, TRUTH))
    settings = SamplerConfig(
        schedule=schedule,
        times=times,
        method=method,
        form=form,
        eta=ETA,
        clip=False,
        parameters=OPTIONS,
    )
    denoiser = GaussianDenoiser(MEAN, COVARIANCE)
    ours = sample(denoiser, problem, settings, NOISE, [KEY], SHAPE).double().numpy().reshape(N)
    low = coarse.double().numpy().ravel() if constrained else None
    dense = Dense(operator, sigma_y, (y + moved).double().numpy().ravel(), low, schedule, form)
    return dense.run(method, times), ours


CASES = [
    (method, name, form)
    for method in ("repaint", "ilvr", "ddrm", "pigdm", "dps")
    for name in OPERATORS
    for form in METHODS[method].forms
    if METHODS[method].takes != "mask" or name == "mask"
]


@pytest.mark.parametrize("sigma_y", [0.0, 0.3])
@pytest.mark.parametrize(("method", "name", "form"), CASES)
def test_a_measurement_enters_as_in_the_paper(method, name, form, sigma_y):
    reference, ours = both(method, OPERATORS[name], sigma_y, False, form)
    np.testing.assert_allclose(ours, reference, atol=TOLERANCE)


# Projections in turn are PiGDM's stacked inverse where they commute: a mask that cuts the guide's
# cells does not.
TOGETHER = [c for c in CASES if c[1] in ("pool", "grey") or (c[1] == "mask" and c[0] != "pigdm")]


@pytest.mark.parametrize(("method", "name", "form"), TOGETHER)
def test_guide_and_known_pixels_enter_beside_the_measurement(method, name, form):
    reference, ours = both(method, OPERATORS[name], 0.0 if method == "pigdm" else 0.3, True, form)
    np.testing.assert_allclose(ours, reference, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["repaint", "ilvr", "ddrm", "pigdm", "dps"])
def test_the_comparison_notices_another_measurement(method):
    operator = OPERATORS["mask" if method == "repaint" else "pool"]
    reference, ours = both(method, operator, 0.3, False, METHODS[method].form, moved=0.1)
    assert np.abs(ours - reference).max() > 10 * TOLERANCE
