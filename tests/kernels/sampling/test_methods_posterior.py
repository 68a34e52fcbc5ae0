"""Every method against the true posterior of a Gaussian prior, and the optimal reverse variance, by
statistics.

A picture of many independent 2 x 2 blocks is as many samples. Pooling by 2 measures the mean of a
block, an eigenvector of its covariance: range and null space are independent, and both posteriors
are known.
"""

import math

import numpy as np
import pytest
import torch

from kernels.denoisers.analytic import GaussianDenoiser
from kernels.noise import KeyedNoise
from kernels.operators.elementary import AveragePool, Mask
from kernels.sampling.analytic_variance import estimate_eps_power, own_pictures
from kernels.sampling.classifier_guidance import Guidance, classifier_guidance
from kernels.sampling.constraints import Known, Measurement, Problem
from kernels.sampling.method_registry import METHODS, MethodConfig
from kernels.sampling.sampler import SamplerConfig, SamplerState, advance, sample, start
from kernels.schedule import Schedule, linear_alpha_bar, log_sigma_timesteps, time_travel

SHAPE = (1, 64, 64)
KEYS = [(0, 0, i) for i in range(4)]
NOISE = KeyedNoise(5)
POOL = AveragePool(2)
FLAT = 0.5  # variance of a block's mean direction and of the three others; mean of a pixel
FINE = 0.1
MEAN = 0.2
COVARIANCE = FINE * torch.eye(4) + (FLAT - FINE) / 4 * torch.ones(4, 4)
# Four standard errors of the variance of 3 x 4096 samples.
CLOSE = 4 * math.sqrt(2 / 12288)


def commuting():
    return GaussianDenoiser(torch.full((1, 2, 2), MEAN), COVARIANCE)


def white(variance, mean=0.0):
    return GaussianDenoiser(torch.full((1, 2, 2), mean), variance * torch.eye(4))


def config(steps, **options):
    """Steps uniform in log sigma: with finitely many, DDPM's variance falls least short of the
    prior's.
    """
    alpha_bar = linear_alpha_bar()
    schedule = Schedule.from_timesteps(alpha_bar, log_sigma_timesteps(alpha_bar, 999, steps))
    return SamplerConfig(
        schedule=schedule, times=tuple(time_travel(len(schedule))), clip=False, **options
    )


def null_space(x):
    return x - POOL.range_project(x)


def expected_variance(settings, variance):
    """Return the variance that finitely many steps give to a direction with this prior variance: a
    linear recursion.
    """
    schedule = settings.schedule
    spread = 1.0
    previous = np.concatenate(([1.0], schedule.alpha_bar[:-1]))
    for t in reversed(range(len(schedule))):
        a2 = schedule.alpha_bar[t]
        s2 = 1 - schedule.alpha_bar[t]
        keep = (
            math.sqrt(a2) * variance / (a2 * variance + s2)
        )  # x0 = keep x; at t = 0 it is the result
        factor = schedule.c1[t] * keep + schedule.c2[t]
        fresh = schedule.posterior_variance[t]
        if settings.step_form == "eps":
            eta2 = schedule.beta[t] / s2 if settings.eta == "ddpm" else settings.eta**2
            eps = math.sqrt(s2) / (a2 * variance + s2)  # eps = eps x
            factor = math.sqrt(previous[t]) * keep + math.sqrt((1 - previous[t]) * (1 - eta2)) * eps
            fresh = (1 - previous[t]) * eta2
        spread = factor**2 * spread + fresh
    return spread


@pytest.mark.parametrize("method", [m for m, info in METHODS.items() if info.takes != "mask"])
def test_what_is_not_measured_keeps_the_prior(method):
    y = torch.full((4, 1, 32, 32), -0.4)
    settings = config(40, method=method, eta="ddpm")
    result = sample(
        commuting(), Problem(measurement=Measurement(POOL, y)), settings, NOISE, KEYS, SHAPE
    )
    assert (POOL.A(result) - y).abs().max() < 1e-5
    free = null_space(result).double()
    assert float(free.square().sum() / (0.75 * free.numel())) == pytest.approx(
        expected_variance(settings, FINE), rel=CLOSE
    )
    assert abs(float(free[..., 0::2, 0::2].mean())) < 0.02
    many = expected_variance(config(600, method=method, eta="ddpm"), FINE)
    assert many == pytest.approx(FINE, rel=0.03)


def test_repaint_keeps_the_prior_where_nothing_is_known():
    mask = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    mask[..., ::2, :] = True
    prior = GaussianDenoiser(
        torch.full((1, 2, 2), MEAN), torch.diag(torch.tensor([0.3, 0.3, 0.1, 0.1]))
    )
    problem = Problem(measurement=Measurement(Mask(mask), torch.full((4, *SHAPE), -0.4)))
    settings = config(40, method="repaint")
    result = sample(prior, problem, settings, NOISE, KEYS, SHAPE)
    assert torch.equal(result[mask], torch.full_like(result[mask], -0.4))
    free = result[~mask].double()
    assert float(free.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(free.var()) == pytest.approx(expected_variance(settings, 0.1), rel=1.3 * CLOSE)


@pytest.mark.parametrize("sigma_y", [0.1, 0.5])
@pytest.mark.slow
def test_pigdm_samples_the_posterior_of_a_white_prior(sigma_y):
    variance = 0.6
    y = torch.full((2, 1, 32, 32), 0.5)
    settings = config(
        240, method="pigdm", form="posterior", parameters=MethodConfig(pigdm_variance=variance)
    )
    problem = Problem(measurement=Measurement(POOL, y, sigma_y))
    result = sample(white(variance), problem, settings, NOISE, KEYS[:2], SHAPE)
    means = POOL.A(result).double()
    spread = variance / 4  # prior variance of a block's mean
    assert float(means.mean()) == pytest.approx(0.5 * spread / (spread + sigma_y**2), abs=0.01)
    # 2048 samples, and a few hundredths that finitely many steps leave.
    assert float(means.var()) == pytest.approx(
        spread * sigma_y**2 / (spread + sigma_y**2), rel=0.13
    )


def corners(steps, zeta):
    """Return how far DPS moves the pixels of a block from their mean when the first of each is
    measured as 0.9.
    """
    mask = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    mask[..., ::2, ::2] = True
    problem = Problem(
        measurement=Measurement(Mask(mask), torch.where(mask, 0.9, 0.0).expand(4, *SHAPE))
    )
    settings = config(steps, method="dps", parameters=MethodConfig(zeta=zeta))
    moved = sample(commuting(), problem, settings, NOISE, KEYS, SHAPE) - MEAN
    return torch.stack([moved[..., i::2, j::2].mean() for i in (0, 1) for j in (0, 1)])


@pytest.mark.slow
def test_dps_moves_what_is_not_measured_towards_the_posterior_mean():
    seen = COVARIANCE[:, 0] / COVARIANCE[0, 0] * (0.9 - MEAN)
    weak = corners(40, 1.0)
    strong = corners(40, 3.0)
    assert float(strong @ seen / strong.norm() / seen.norm()) > 0.98
    assert float(strong[0]) == pytest.approx(float(seen[0]), abs=1e-5)
    assert float(strong[1:].mean()) > 2 * float(weak[1:].mean()) > 0.2 * float(seen[1])


@pytest.mark.slow
def test_the_strength_of_dps_does_not_depend_on_the_number_of_steps():
    few = corners(20, 1.0)
    many = corners(100, 1.0)
    assert float(few[1:].mean()) == pytest.approx(float(many[1:].mean()), rel=0.2)


def through(problem, settings, prior):
    """Yield (index, x_index) after every step but the last."""
    state = start(problem, settings, NOISE, KEYS, SHAPE)
    while settings.times[state.position[0] + 1] >= 0:
        state = advance(prior, state, settings, NOISE)
        yield settings.times[state.position[0]], state.x.double()


@pytest.mark.parametrize("sigma_y", [0.0, 0.2])
@pytest.mark.parametrize("method", ["ilvr", "ddrm"])
def test_the_measured_part_of_the_state_has_the_marginal_of_its_level(method, sigma_y):
    settings = config(12, method=method)
    mean = 0.3
    noise = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    problem = Problem(measurement=Measurement(POOL, mean + sigma_y * noise, sigma_y))
    for t, x in through(problem, settings, white(0.3)):
        alpha_bar = settings.schedule.alpha_bar[t]
        if 1 - alpha_bar >= alpha_bar * (2 * sigma_y) ** 2:
            deviation = 2 * (POOL.A(x) - math.sqrt(alpha_bar) * mean)
            assert float(deviation.square().mean()) == pytest.approx(1 - alpha_bar, rel=0.1)
            assert abs(float(deviation.mean())) < 0.1 * math.sqrt(1 - alpha_bar)


def test_known_pixels_are_noised_to_their_level_by_repaint():
    settings = config(12, method="repaint")
    known = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    known[..., :32] = True
    for t, x in through(
        Problem(known=Known(known, torch.full((4, *SHAPE), 0.7))), settings, white(0.3)
    ):
        alpha_bar = settings.schedule.alpha_bar[t]
        deviation = x[known] - math.sqrt(alpha_bar) * 0.7
        assert float(deviation.square().mean()) == pytest.approx(1 - alpha_bar, rel=0.05)


@pytest.mark.parametrize("form", ["posterior", "eps"])
def test_the_optimal_variance_makes_few_steps_exact_for_a_white_prior(form):
    variance = 0.3
    schedule = config(5).schedule
    power = (1 - schedule.alpha_bar) / (schedule.alpha_bar * variance + 1 - schedule.alpha_bar)

    def draw(**o):
        settings = config(5, form=form, **o)
        return float(sample(white(variance), Problem(), settings, NOISE, KEYS, SHAPE).var())

    assert draw(eta="analytic", eps_power=tuple(power)) == pytest.approx(variance, rel=CLOSE)
    assert draw(eta="ddpm") < 0.9 * variance


def test_the_power_of_eps_is_estimated_from_pictures_or_from_what_the_denoiser_invents():
    schedule = config(8).schedule
    root = np.linalg.cholesky(COVARIANCE.numpy()).astype(np.float32)
    blocks = (
        MEAN
        + torch.randn(4, 32, 32, 4, generator=torch.Generator().manual_seed(8))
        @ torch.from_numpy(root).T
    )
    images = blocks.reshape(4, 32, 32, 2, 2).permute(0, 1, 3, 2, 4).reshape(4, *SHAPE)
    a2 = schedule.alpha_bar
    s2 = 1 - schedule.alpha_bar
    expected = sum(
        weight * s2 / (a2 * variance + s2) for weight, variance in ((0.25, FLAT), (0.75, FINE))
    )
    np.testing.assert_allclose(
        estimate_eps_power(commuting(), schedule, images, NOISE), expected, rtol=0.03
    )
    own = own_pictures(commuting(), NOISE, SHAPE, 2)
    np.testing.assert_allclose(
        estimate_eps_power(commuting(), schedule, own, NOISE), expected, rtol=0.12
    )


def test_a_table_of_etas_holds_for_each_index():
    y = Problem(measurement=Measurement(POOL, torch.full((4, 1, 32, 32), 0.5)))
    draw = lambda eta: sample(commuting(), y, config(6, form="eps", eta=eta), NOISE, KEYS, SHAPE)  # noqa: E731
    assert torch.equal(draw((0.6,) * 6), draw(0.6))
    assert not torch.equal(draw((0.6, 0.6, 0.6, 0.6, 0.6, 0.1)), draw(0.6))


VARIANCE = 0.3
PUSH = 0.8


def towards(x, t, labels=None):
    """Gradient of log p(c | x_t) for p(c | x_0) = exp(push x_0), x_0 ~ N(0, VARIANCE); class 1
    pushes down.
    """
    a2 = torch.from_numpy(linear_alpha_bar())[t][:, None, None, None].float()
    sign = 1.0 if labels is None else 1.0 - 2.0 * labels[:, None, None, None]
    return sign * PUSH * a2.sqrt() * VARIANCE / (a2 * VARIANCE + 1 - a2) * torch.ones_like(x)


@pytest.mark.parametrize("form", ["posterior", "eps"])
@pytest.mark.slow
def test_guidance_samples_the_conditional_prior(form):
    guidance = Guidance(gradient=towards, labels=torch.tensor([0, 1, -1, 0]))
    settings = config(240, form=form, eta="ddpm")
    result = sample(
        white(VARIANCE), Problem(), settings, NOISE, KEYS, SHAPE, guidance=guidance
    ).double()
    shift = result.mean(dim=(1, 2, 3)) / (VARIANCE * PUSH)
    np.testing.assert_allclose(shift.numpy(), [1, -1, 0, 1], atol=0.1)
    assert float(result[0].var()) == pytest.approx(
        expected_variance(settings, VARIANCE), rel=2 * CLOSE
    )


@pytest.mark.parametrize("method", METHODS)
def test_guided_tiles_do_not_depend_on_their_batch_and_stay_exact(method):
    mask = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    mask[..., :32] = True
    problem = Problem(measurement=Measurement(Mask(mask), torch.full((4, *SHAPE), 0.3)))
    guidance = Guidance(gradient=towards, scale=2.0, labels=torch.tensor([0, 1, -1, 0]))
    settings = config(4, method=method)
    batch = sample(commuting(), problem, settings, NOISE, KEYS, SHAPE, guidance=guidance)
    assert torch.equal(batch[mask], torch.full_like(batch[mask], 0.3))
    unguided = sample(commuting(), problem, settings, NOISE, KEYS, SHAPE)
    assert [bool(torch.equal(g, u)) for g, u in zip(batch, unguided, strict=True)] == [
        False,
        False,
        True,
        False,
    ]
    states = [
        start(
            problem.select([i]),
            settings,
            NOISE,
            [KEYS[i]],
            SHAPE,
            guidance=Guidance(gradient=towards, scale=2.0, labels=guidance.labels[i : i + 1]),
        )
        for i in range(4)
    ]
    state = SamplerState.cat(states)
    while not all(state.finished(settings)):
        state = advance(commuting(), state, settings, NOISE)
    assert state.estimate.numpy().tobytes() == batch.numpy().tobytes()


class ColourClassifier(torch.nn.Module):
    """Two classes by the mean of the picture, whose slope is 5."""

    def forward(self, x, t):
        score = 5 * x.mean(dim=(1, 2, 3))
        return torch.stack([score, -score], 1)


def test_a_classifier_guides_each_tile_to_its_class():
    guidance = classifier_guidance(ColourClassifier(), [0, 1, None, 0], 2, 4000.0)
    draw = lambda g: sample(white(0.3), Problem(), config(20), NOISE, KEYS, SHAPE, guidance=g)  # noqa: E731
    moved = (draw(guidance) - draw(None)).mean(dim=(1, 2, 3))
    assert moved[0] > 0.1
    assert moved[1] < -0.1
    assert moved[2] == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: classifier_guidance(ColourClassifier(), [0, 7], 2, 1.0), "class 7 is unknown"),
        (lambda: Guidance(gradient=towards, scale=-1.0), "guidance scale -1.0"),
        (lambda: Guidance(gradient=towards, labels=torch.zeros(4)), "labels are torch.float32"),
        (
            lambda: sample(
                white(0.3),
                Problem(),
                config(3),
                NOISE,
                KEYS,
                SHAPE,
                guidance=Guidance(gradient=towards, labels=torch.tensor([0])),
            ),
            "1 labels guide 4 tiles",
        ),
    ],
)
def test_bad_guidance_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        build()
