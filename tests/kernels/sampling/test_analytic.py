"""The sampler against closed forms: with a Gaussian prior every step is linear, so mean and
covariance are known.

The closed form below is written from the equations (spectral DDNM+ by a dense singular value
decomposition), apart from the sampler's code. A picture of N independent blocks gives N samples; an
entry of their mean or covariance may be off by five of its standard errors, sqrt(C_ii / N) or
sqrt((C_ii C_jj + C_ij^2) / N), plus 2e-4 for float32.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from kernels.denoisers.analytic import GaussianDenoiser, StationaryDenoiser, power_spectrum
from kernels.noise import KeyedNoise
from kernels.operators.compose import compose
from kernels.operators.elementary import AveragePool, Grey, Identity, Mask, MaskedPool
from kernels.sampling.constraints import Known, Measurement, Problem, guide
from kernels.sampling.sampler import SamplerConfig, sample
from kernels.schedule import Schedule, linear_alpha_bar, respaced_timesteps, time_travel

BLOCK = (3, 4, 4)
N_VALUES = 48
ROWS = 32
COLUMNS = 256
SAMPLES = ROWS * COLUMNS
FLOAT32 = 2e-4

RNG = np.random.RandomState(3)
MEAN = 0.3 * RNG.standard_normal(N_VALUES)
ROOT = (
    RNG.standard_normal((N_VALUES, N_VALUES))
    * np.linspace(0.1, 0.9, N_VALUES)
    / math.sqrt(N_VALUES)
)
COVARIANCE = ROOT @ ROOT.T + 0.01 * np.eye(N_VALUES)
TRUTH = MEAN + np.linalg.cholesky(COVARIANCE) @ RNG.standard_normal(N_VALUES)
MASK = torch.tensor(RNG.rand(4, 4) < 0.6)
PINNED = torch.zeros(4, 4, dtype=torch.bool)
PINNED[:, :2] = True

OPERATORS = {
    "pool": lambda m: AveragePool(2),
    "pool of grey": lambda m: compose(AveragePool(2), Grey()),
    "mask": Mask,
    "identity": lambda m: Identity(),
    "old photo": lambda m: compose(MaskedPool(2, m), Grey()),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Do not spin on the cores of others: these pictures are too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiled(values):
    """Repeat one block over the picture: (C, h, w) -> (1, C, h ROWS, w COLUMNS)."""
    return torch.as_tensor(values).repeat(1, ROWS, COLUMNS)[None]


def block(vector):
    return torch.as_tensor(vector, dtype=torch.float32).reshape(BLOCK)


def dense(operator):
    basis = torch.eye(N_VALUES, dtype=torch.float64).reshape(-1, *BLOCK)
    return torch.stack([operator.A(e[None]).flatten() for e in basis], dim=1).numpy()


def settings(steps=12, travel=(1, 1), first=None, **options):
    schedule = Schedule.from_timesteps(linear_alpha_bar(), respaced_timesteps(1000, steps, first))
    return SamplerConfig(
        schedule=schedule, times=tuple(time_travel(steps, *travel)), clip=False, **options
    )


class Linear:
    """Propagate mean and covariance of x_t through the sampler's recursion."""

    def __init__(self, config, mean=MEAN, covariance=COVARIANCE):
        self.config = config
        self.mu = mean
        self.sigma = covariance
        self.A = np.zeros((0, N_VALUES))
        self.y = np.zeros(0)
        self.sigma_y = 0.0
        self.coarse = self.guide_y = None
        self.pins = np.zeros(N_VALUES, bool)

    def ddnm_plus(self, alpha, tau, eta):
        """Return per right-singular direction: lambda, standard deviation of fresh noise, weight of
        eps.
        """
        _, singular, vt = np.linalg.svd(self.A)
        s = np.zeros(N_VALUES)
        s[: len(singular)] = np.where(singular > 1e-9, singular, 0)
        if self.sigma_y == 0:
            return (
                np.eye(N_VALUES),
                np.ones(N_VALUES),
                np.full(N_VALUES, eta * tau),
                self.kept(tau, eta),
            )
        if self.config.ddnm_plus == "scalar":
            s = np.ones(N_VALUES)
        lam = np.ones(N_VALUES)
        fresh = np.full(N_VALUES, eta * tau)
        kept = self.kept(tau, eta)
        low_eta = 0.0 if self.config.step_form == "posterior" else eta
        for i in np.flatnonzero(s):
            kept[i] = 0
            if tau >= alpha * self.sigma_y / s[i]:
                fresh[i] = math.sqrt(tau**2 - (alpha * self.sigma_y / s[i]) ** 2)
            else:
                lam[i] = (
                    tau
                    * s[i]
                    * math.sqrt(1 - (self.config.noise_scale * low_eta) ** 2)
                    / (alpha * self.sigma_y)
                )
                fresh[i] = tau * low_eta
        return vt, lam, fresh, kept

    def kept(self, tau, eta):
        return np.full(
            N_VALUES, 0.0 if self.config.step_form == "posterior" else tau * math.sqrt(1 - eta**2)
        )

    def step(self, t, m, cov):
        """Return mean and covariance of x^ and of x_{t-1}."""
        sched = self.config.schedule
        eye = np.eye(N_VALUES)
        ab = sched.alpha_bar[t]
        ab1 = sched.alpha_bar[t - 1] if t else 1.0
        a = math.sqrt(ab)
        s = math.sqrt(1 - ab)
        beta_tilde = (1 - ab1) / (1 - ab) * (1 - ab / ab1)
        if self.config.step_form == "posterior":
            alpha = math.sqrt(ab1) * (1 - ab / ab1) / (1 - ab)
            q = math.sqrt(ab / ab1) * (1 - ab1) / (1 - ab)
            tau = math.sqrt(beta_tilde)
            eta = 1.0
        else:
            alpha = math.sqrt(ab1)
            q = 0.0
            tau = math.sqrt(1 - ab1)
            eta = (
                self.config.eta
                if self.config.eta != "ddpm"
                else (math.sqrt(beta_tilde) / tau if t else 0.0)
            )
        vt, lam, fresh, kept = self.ddnm_plus(alpha, tau, eta)
        gain = s * np.linalg.inv(ab * self.sigma + (1 - ab) * eye)  # eps = gain (x - a mu)
        hat = (eye - s * gain) / a
        offset = gain @ self.mu * s
        if self.coarse is not None:
            pinv = np.linalg.pinv(self.coarse)
            hat = hat - pinv @ self.coarse @ hat
            offset = offset + pinv @ (self.guide_y - self.coarse @ offset)
        correction = vt.T @ np.diag(lam) @ vt @ np.linalg.pinv(self.A)
        hat = hat - correction @ self.A @ hat
        offset = offset + correction @ (self.y - self.A @ offset)
        hat = np.where(self.pins[:, None], 0, hat)
        offset = np.where(self.pins, TRUTH, offset)
        keep = vt.T @ np.diag(kept) @ vt @ gain
        total = alpha * hat + q * eye + keep
        noise = vt.T @ np.diag(fresh) @ vt * self.config.noise_scale
        moved = (
            total @ m + alpha * offset - keep @ (a * self.mu),
            total @ cov @ total.T + noise @ noise.T,
        )
        return (hat @ m + offset, hat @ cov @ hat.T), moved

    def run(self, x_init=None):
        times = self.config.times
        sched = self.config.schedule
        scale = self.config.noise_scale
        ab = sched.alpha_bar[times[0]]
        m = np.zeros(N_VALUES) if x_init is None else math.sqrt(ab) * x_init
        cov = scale**2 * np.eye(N_VALUES) * (1.0 if x_init is None else 1 - ab)
        for t, after in pairwise(times):
            if after > t:
                beta = sched.beta[after]
                m = math.sqrt(1 - beta) * m
                cov = (1 - beta) * cov + beta * scale**2 * np.eye(N_VALUES)
            else:
                result, (m, cov) = self.step(t, m, cov)
        return result


def drawn(config, problem, x_init=None, prior=(MEAN, COVARIANCE)):
    """Return the samples of the real sampler, (SAMPLES, N_VALUES)."""
    denoiser = GaussianDenoiser(torch.as_tensor(prior[0]).reshape(BLOCK), torch.as_tensor(prior[1]))
    shape = (3, 4 * ROWS, 4 * COLUMNS)
    x = sample(denoiser, problem, config, KeyedNoise(5), [(0, 0, 0)], shape, x_init).double()
    return (
        x.reshape(3, ROWS, 4, COLUMNS, 4).permute(1, 3, 0, 2, 4).reshape(SAMPLES, N_VALUES).numpy()
    )


def assert_agrees(samples, mean, cov):
    variance = np.diag(cov)
    assert np.all(np.abs(samples.mean(0) - mean) <= 5 * np.sqrt(variance / SAMPLES) + FLOAT32)
    bound = 5 * np.sqrt((np.outer(variance, variance) + cov**2) / SAMPLES) + FLOAT32
    assert np.all(np.abs(np.cov(samples.T) - cov) <= bound)


CASES = {
    # name: (operator, sigma_y, pinned, guided, settings)
    "prior": (None, 0.0, False, False, {}),
    "posterior form": ("pool", 0.0, False, False, {}),
    "posterior form, pins": ("pool of grey", 0.0, True, False, {}),
    "posterior form, noisy": ("pool of grey", 0.3, False, False, {}),
    "posterior form, noisy, pins": ("pool", 0.3, True, False, {}),
    "posterior form, noisy, scalar": ("pool", 0.3, False, False, {"ddnm_plus": "scalar"}),
    "posterior form, denoising": ("identity", 0.5, False, False, {"steps": 20}),
    "posterior form, noisy map": ("old photo", 0.2, True, False, {}),
    "posterior form, guide and time travel": ("pool of grey", 0.1, True, True, {"travel": (3, 2)}),
    "eps form, no fresh noise": ("pool", 0.0, False, False, {"form": "eps", "eta": 0.0}),
    "eps form, pins": ("pool of grey", 0.0, True, False, {"form": "eps", "eta": 0.85}),
    "eps form, noisy": ("pool of grey", 0.3, False, False, {"form": "eps", "eta": 0.85}),
    "eps form, noisy mask, pins": ("mask", 0.3, True, False, {"form": "eps", "eta": "ddpm"}),
    "eps form, noisy, scalar": (
        "pool",
        0.3,
        False,
        False,
        {"form": "eps", "eta": 0.5, "ddnm_plus": "scalar"},
    ),
    "less noise": (
        "pool",
        0.2,
        True,
        True,
        {"form": "eps", "eta": 0.85, "noise_scale": 0.5, "travel": (2, 2)},
    ),
    "warm start": ("pool", 0.0, False, False, {"first": 400, "noise_scale": 0.7}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_mean_and_covariance_follow_the_closed_form(case):
    name, sigma_y, pinned, guided, options = case
    config = settings(**options)
    linear = Linear(config)
    problem = {}
    truth = block(TRUTH)
    if name is not None:
        small = OPERATORS[name](MASK[None, None])
        large = OPERATORS[name](tiled(MASK[None]))
        linear.A = dense(small)
        linear.sigma_y = sigma_y
        linear.y = linear.A @ TRUTH
        problem["measurement"] = Measurement(large, large.A(tiled(truth)), sigma_y)
    if guided:
        linear.coarse = dense(AveragePool(2))
        linear.guide_y = dense(AveragePool(2)) @ MEAN
        problem["guide"] = guide(AveragePool(2).A(tiled(block(MEAN))), 2)
    if pinned:
        linear.pins = PINNED.expand(BLOCK).flatten().numpy()
        problem["known"] = Known(tiled(PINNED[None]), tiled(truth))
    x_init = MEAN + 0.2 if "first" in options else None
    samples = drawn(config, Problem(**problem), None if x_init is None else tiled(block(x_init)))
    assert_agrees(samples, *linear.run(x_init))


def commuting_prior():
    """Return a prior whose covariance commutes with the range projector of 2 x 2 pooling, and that
    projector.
    """
    pool = dense(AveragePool(2))
    projector = np.linalg.pinv(pool) @ pool
    null = np.eye(N_VALUES) - projector
    return projector @ COVARIANCE @ projector + null @ COVARIANCE @ null, projector


@pytest.mark.slow
def test_the_bayes_posterior_is_reached_where_ddnm_is_exact():
    # Range and null space are independent under such a prior, so that the posterior of an exact
    # measurement is the measurement beside the prior's null space.
    covariance, projector = commuting_prior()
    null = np.eye(N_VALUES) - projector
    mean = projector @ TRUTH + null @ MEAN
    cov = null @ covariance @ null
    errors = []
    for steps in (10, 30, 90, 270):
        linear = Linear(settings(steps), covariance=covariance)
        linear.A = dense(AveragePool(2))
        linear.y = linear.A @ TRUTH
        reached = linear.run()
        assert np.abs(reached[0] - mean).max() < 1e-4
        errors.append(np.abs(reached[1] - cov).max())
    assert all(finer < coarser / 1.8 for coarser, finer in pairwise(errors))
    assert errors[-1] < 0.03 * np.diag(covariance).max()

    problem = Problem(
        measurement=Measurement(AveragePool(2), AveragePool(2).A(tiled(block(TRUTH))))
    )
    samples = drawn(settings(30), problem, prior=(MEAN, covariance))
    slack = errors[1]
    variance = np.diag(cov)
    assert np.all(
        np.abs(samples.mean(0) - mean) <= 5 * np.sqrt(variance / SAMPLES) + slack + FLOAT32
    )
    bound = 5 * np.sqrt((np.outer(variance, variance) + cov**2) / SAMPLES) + slack + FLOAT32
    assert np.all(np.abs(np.cov(samples.T) - cov) <= bound)


def test_the_dense_denoiser_is_the_textbook_formula():
    denoiser = GaussianDenoiser(torch.as_tensor(MEAN).reshape(BLOCK), torch.as_tensor(COVARIANCE))
    x = torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 700])
    eps = denoiser(x, t)
    for i, ab in enumerate(linear_alpha_bar()[t.numpy()]):
        for j in (0, 4):
            residual = x[i, :, j : j + 4].double().flatten().numpy() - math.sqrt(ab) * MEAN
            expected = math.sqrt(1 - ab) * np.linalg.solve(
                ab * COVARIANCE + (1 - ab) * np.eye(N_VALUES), residual
            )
            np.testing.assert_allclose(
                eps[i, :, j : j + 4].flatten().numpy(), expected, rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stationary_denoiser_is_the_dense_one_of_its_covariance(channels):
    h = 4
    w = 6
    spectrum = np.fft.irfft2(power_spectrum(h, w), s=(h, w))
    pixels = [(i, j) for i in range(h) for j in range(w)]
    plane = np.array([[spectrum[(i - k) % h, (j - m) % w] for k, m in pixels] for i, j in pixels])
    common = np.full((channels, channels), 1 / channels)
    own = np.eye(channels) - common
    mix = common * 0.9 * channels + (
        own * 0.1 * channels / (channels - 1) if channels > 1 else 0.1 * common
    )
    dense_denoiser = GaussianDenoiser(
        torch.zeros(channels, h, w), torch.as_tensor(np.kron(mix, plane))
    )
    x = torch.randn(2, channels, h, w, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([300, 900])
    assert torch.allclose(StationaryDenoiser()(x, t), dense_denoiser(x, t), atol=1e-5)


def test_the_stationary_prior_has_the_stated_variance_at_any_size():
    for size in ((16, 16), (17, 30)):
        full = np.fft.irfft2(power_spectrum(*size), s=size)
        assert full[0, 0] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.zeros(1, 2, 2), torch.eye(3), "needs \\(4, 4\\)"),
        (torch.zeros(1, 2, 2), -torch.eye(4), "positive semi-definite"),
    ],
)
def test_a_covariance_that_is_none_is_refused(mean, covariance, message):
    with pytest.raises(ValueError, match=message):
        GaussianDenoiser(mean, covariance)


def test_a_picture_not_made_of_blocks_is_refused():
    with pytest.raises(ValueError, match="not made of blocks"):
        GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))(
            torch.zeros(1, 1, 3, 4), torch.tensor([0])
        )
