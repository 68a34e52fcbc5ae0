import math

import pytest
import torch

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.analytic import GaussianDenoiser
from kernels.noise import KeyedNoise
from kernels.operators.compose import compose
from kernels.operators.elementary import AveragePool, Grey, Identity, Mask, MaskedPool
from kernels.sampling.constraints import Known, Measurement, Problem, guide
from kernels.sampling.sampler import SamplerConfig, SamplerState, advance, sample, start
from kernels.schedule import (
    Schedule,
    linear_alpha_bar,
    network_calls,
    respaced_timesteps,
    time_travel,
)

SHAPE = (3, 16, 16)
KEYS = tuple((0, i, 7 - i) for i in range(8))
NOISE = KeyedNoise(11)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Do not spin on the cores of others: these pictures are too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class SmallConv:
    """A random convolutional denoiser: what a network does to bits, at no cost."""

    info = DenoiserInfo(name="small", tile=16, multiple=1)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        sizes = [(16, 3, 3, 3), (16, 16, 3, 3), (3, 16, 3, 3)]
        self.weights = [torch.randn(s, generator=generator) / math.sqrt(s[1] * 9) for s in sizes]
        self.calls = []

    def __call__(self, x_t, t):
        self.calls.append(t.tolist())
        h = x_t.to(memory_format=torch.channels_last)
        for w in self.weights:
            h = (
                torch.nn.functional.silu(torch.nn.functional.conv2d(h, w, padding=1))
                + 0.001 * t[:, None, None, None]
            )
        return h

    def to(self, device):
        return self


class CountingNoise:
    """Record which draws are asked for."""

    def __init__(self):
        self.drawn = []

    def draw(self, keys, index, shape, device):
        self.drawn += zip(keys, index, strict=True)
        return NOISE.draw(keys, index, shape, device)


def config(steps=5, travel=(2, 2), first=None, **options):
    schedule = Schedule.from_timesteps(linear_alpha_bar(), respaced_timesteps(1000, steps, first))
    return SamplerConfig(schedule=schedule, times=tuple(time_travel(steps, *travel)), **options)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def masks(batch=8):
    return torch.rand(batch, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.7


def overlap(batch=8):
    known = torch.zeros(batch, 1, 16, 16, dtype=torch.bool)
    known[..., :8] = True
    return Known(known, randn(batch, 3, 16, 16, seed=5))


def measured(operator, sigma_y, batch=8):
    return Measurement(operator, operator.A(randn(batch, 3, 16, 16, seed=6)), sigma_y)


PROBLEMS = {
    "generate": lambda s: Problem(),
    "generate with overlap": lambda s: Problem(known=overlap()),
    "sr": lambda s: Problem(
        guide(randn(8, 3, 8, 8, seed=4), 2), measured(AveragePool(4), s), overlap()
    ),
    "denoise": lambda s: Problem(measurement=measured(Identity(), s)),
    "grey": lambda s: Problem(measurement=measured(Grey(), s), known=overlap()),
    "inpaint": lambda s: Problem(measurement=measured(Mask(masks()), s), known=overlap()),
    "old photo": lambda s: Problem(
        measurement=measured(compose(MaskedPool(2, masks()), Grey()), s)
    ),
}
FORMS = {
    "posterior": {},
    "posterior, scalar": {"ddnm_plus": "scalar"},
    "eps": {"form": "eps", "eta": 0.85},
    "eps ddpm, less noise": {"form": "eps", "eta": "ddpm", "noise_scale": 0.5},
    "eps, scalar": {"form": "eps", "ddnm_plus": "scalar"},
}


@pytest.mark.parametrize(
    ("form", "name", "sigma_y"),
    [
        *(("posterior", name, sigma_y) for name in PROBLEMS for sigma_y in (0.0, 0.1)),
        *(
            (form, name, 0.1)
            for form in FORMS
            for name in ("sr", "old photo")
            if form != "posterior"
        ),
    ],
)
def test_a_batch_of_eight_equals_eight_batches_of_one(form, name, sigma_y):
    problem = PROBLEMS[name](sigma_y)
    settings = config(steps=4, **FORMS[form])
    denoiser = SmallConv()
    batch = sample(denoiser, problem, settings, NOISE, KEYS, SHAPE)
    alone = [
        sample(denoiser, problem.select([i]), settings, NOISE, [KEYS[i]], SHAPE) for i in range(8)
    ]
    assert batch.numpy().tobytes() == torch.cat(alone).numpy().tobytes()
    assert batch.isfinite().all()


@pytest.mark.parametrize("form", ["posterior", "eps ddpm, less noise"])
def test_tiles_at_different_steps_of_one_batch_end_as_if_alone(form):
    settings = config(**FORMS[form])
    denoiser = SmallConv()
    problem = PROBLEMS["sr"](0.1)
    begin = lambda i: start(problem.select([i]), settings, NOISE, [KEYS[i]], SHAPE)  # noqa: E731
    state = begin(0)
    waiting = list(range(1, 8))
    results = {}
    while state is not None:
        state = advance(denoiser, state, settings, NOISE)
        over = state.finished(settings)
        results |= {state.keys[i]: state.estimate[i] for i, done in enumerate(over) if done}
        going = (
            [state.select([i for i, done in enumerate(over) if not done])] if not all(over) else []
        )
        state = (
            SamplerState.cat([*going, *(begin(i) for i in waiting[:1])])
            if going or waiting
            else None
        )
        waiting = waiting[1:]
    expected = sample(denoiser, problem, settings, NOISE, KEYS, SHAPE)
    for key, tile in zip(KEYS, expected, strict=True):
        assert results[key].numpy().tobytes() == tile.numpy().tobytes()


def test_tiles_with_and_without_overlap_can_share_a_batch():
    settings = config()
    denoiser = SmallConv()
    with_overlap = start(Problem(known=overlap(1)), settings, NOISE, KEYS[:1], SHAPE)
    without = start(Problem(), settings, NOISE, KEYS[1:2], SHAPE)
    state = SamplerState.cat([with_overlap, without])
    while not all(state.finished(settings)):
        state = advance(denoiser, state, settings, NOISE)
    assert torch.equal(
        state.estimate[1:], sample(denoiser, Problem(), settings, NOISE, KEYS[1:2], SHAPE)
    )


@pytest.mark.parametrize("sigma_y", [0.0, 0.2])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_known_pixels_are_bit_equal(form, sigma_y):
    problem = PROBLEMS["sr"](sigma_y).select([0, 1])
    result = sample(SmallConv(), problem, config(**form), NOISE, KEYS[:2], SHAPE)
    assert torch.equal(result[..., :8], problem.known.value[..., :8])
    assert not torch.equal(result[..., 8:], problem.known.value[..., 8:])


@pytest.mark.parametrize("name", ["sr", "denoise", "grey", "old photo"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_an_exact_measurement_is_satisfied(form, name):
    problem = PROBLEMS[name](0.0).select([0, 1])
    measurement = problem.measurement
    result = sample(
        SmallConv(), Problem(problem.guide, measurement), config(**form), NOISE, KEYS[:2], SHAPE
    )
    assert (measurement.operator.A(result) - measurement.y).abs().max() < 1e-5


def test_every_transition_consumes_one_draw_in_order():
    noise = CountingNoise()
    denoiser = SmallConv()
    settings = config(steps=6)
    sample(denoiser, Problem(), settings, noise, KEYS[:1], SHAPE)
    # The draw of the last transition has weight 0 and need not be made, but it has its index.
    assert noise.drawn == [(KEYS[0], i) for i in range(len(settings.times) - 1)]
    state = start(Problem(), settings, NOISE, KEYS[:1], SHAPE)
    while not all(state.finished(settings)):
        state = advance(denoiser, state, settings, NOISE)
    assert state.draws == (len(settings.times),)


def test_the_network_sees_base_timesteps_once_per_reverse_step():
    denoiser = SmallConv()
    settings = config(steps=6, travel=(2, 3))
    sample(denoiser, Problem(), settings, NOISE, KEYS[:1], SHAPE)
    assert len(denoiser.calls) == network_calls(settings.times)
    assert denoiser.calls[0] == [999]
    assert denoiser.calls[-1] == [0]


def test_noise_scale_zero_draws_nothing():
    noise = CountingNoise()
    result = sample(SmallConv(), Problem(), config(noise_scale=0.0), noise, KEYS, SHAPE)
    assert noise.drawn == []
    assert torch.equal(result, result[:1].expand_as(result))


def test_a_warm_start_begins_at_the_noised_picture():
    x_init = randn(2, *SHAPE)
    settings = config(first=300, noise_scale=0.5)
    state = start(Problem(), settings, NOISE, KEYS[:2], SHAPE, x_init)
    alpha_bar = linear_alpha_bar()[300]
    z = NOISE.draw(KEYS[:2], [0, 0], SHAPE, torch.device("cpu"))
    expected = math.sqrt(alpha_bar) * x_init + 0.5 * math.sqrt(1 - alpha_bar) * z
    assert torch.allclose(state.x, expected, atol=1e-6)


def test_fresh_noise_alone_at_noise_scale_zero_restarts_from_the_estimate():
    settings = config(first=300, form="eps", eta=1.0, noise_scale=0.0)
    x_init = randn(1, *SHAPE)
    state = advance(
        SmallConv(), start(Problem(), settings, NOISE, KEYS[:1], SHAPE, x_init), settings, NOISE
    )
    a = math.sqrt(settings.schedule.alpha_bar[settings.times[1]])
    assert torch.allclose(state.x, a * state.estimate, atol=1e-6)


def test_both_forms_are_one_process_when_nothing_is_projected_or_clipped():
    mean = torch.full((3, 2, 2), 0.1)
    root = randn(12, 12, seed=3)
    denoiser = GaussianDenoiser(mean, root @ root.T / 12)
    draw = lambda **o: sample(denoiser, Problem(), config(clip=False, **o), NOISE, KEYS, SHAPE)  # noqa: E731
    assert torch.allclose(draw(), draw(form="eps", eta="ddpm"), atol=2e-4)


def test_only_the_clean_estimate_is_clamped():
    problem = Problem(measurement=Measurement(AveragePool(4), torch.full((8, 3, 4, 4), 1.5)))
    result = sample(SmallConv(), problem, config(), NOISE, KEYS, SHAPE)
    assert result.max() > 1.5
    assert sample(SmallConv(), Problem(), config(), NOISE, KEYS, SHAPE).abs().max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"form": "ode"},
        {"eta": 1.5},
        {"eta": "ddim"},
        {"noise_scale": 2.0},
        {"ddnm_plus": "spectral"},
    ],
)
def test_unknown_settings_are_refused(options):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        config(**options)


@pytest.mark.parametrize(
    "times", [(), (-1,), (4, 3, 2, 1, 0), (4, 2, 0, -1), (5, 4, 3, 2, 1, 0, -1), (0, -1, 0, -1)]
)
def test_times_that_do_not_walk_down_to_the_end_are_refused(times):
    with pytest.raises(ValueError, match="use time_travel"):
        SamplerConfig(schedule=config().schedule, times=times)


def test_a_finished_tile_must_be_retired_before_the_others_advance():
    settings = config(steps=1)
    state = advance(
        SmallConv(), start(Problem(), settings, NOISE, KEYS[:1], SHAPE), settings, NOISE
    )
    with pytest.raises(ValueError, match="select the unfinished"):
        advance(SmallConv(), state, settings, NOISE)


def test_a_warm_start_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="x_init has shape"):
        start(Problem(), config(), NOISE, KEYS[:1], SHAPE, torch.zeros(1, 3, 8, 8))
