"""Every method in the one loop: batch invariance, pins and guide, travel, warm start, refusals,
mutation sanity.
"""

import math
from dataclasses import replace

import pytest
import torch

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.analytic import GaussianDenoiser
from kernels.noise import KeyedNoise
from kernels.operators.compose import compose
from kernels.operators.elementary import AveragePool, Grey, Identity, Mask, MaskedPool
from kernels.operators.separable import Separable
from kernels.operators.smooth_pool import SmoothPool
from kernels.operators.stencil import gaussian
from kernels.sampling.constraints import Known, Measurement, Problem, guide
from kernels.sampling.method_registry import METHODS, MethodConfig, describe_method
from kernels.sampling.sampler import SamplerConfig, SamplerState, advance, sample, start
from kernels.schedule import Schedule, linear_alpha_bar, respaced_timesteps, time_travel

SHAPE = (3, 16, 16)
KEYS = tuple((0, i, 7 - i) for i in range(4))
NOISE = KeyedNoise(11)


class SmallConv:
    """A random convolutional denoiser: what a network and its derivative do to bits, at no cost."""

    info = DenoiserInfo(name="small", tile=16, multiple=1)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        sizes = [(16, 3, 3, 3), (16, 16, 3, 3), (3, 16, 3, 3)]
        self.weights = [torch.randn(s, generator=generator) / math.sqrt(s[1] * 9) for s in sizes]

    def __call__(self, x_t, t):
        h = x_t.to(memory_format=torch.channels_last)
        for w in self.weights:
            h = (
                torch.nn.functional.silu(torch.nn.functional.conv2d(h, w, padding=1))
                + 0.001 * t[:, None, None, None]
            )
        return h


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


def overlap():
    known = torch.zeros(4, 1, 16, 16, dtype=torch.bool)
    known[..., :8] = True
    return Known(known, torch.where(known, randn(4, 3, 16, 16, seed=5), torch.nan))


def masks():
    return torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.7


def measured(operator, sigma_y):
    return Measurement(operator, operator.A(randn(4, 3, 16, 16, seed=6)), sigma_y)


def masked(sigma_y):
    """A measurement that holds anything, NaN included, where nothing was measured."""
    return Measurement(
        Mask(masks()), torch.where(masks(), randn(4, 3, 16, 16, seed=6), torch.nan), sigma_y
    )


COARSE = randn(4, 3, 8, 8, seed=4)
PROBLEMS = {
    "generate": lambda s: Problem(),
    "generate with overlap": lambda s: Problem(known=overlap()),
    "guide": lambda s: Problem(guide(COARSE, 2), None, overlap()),
    "sr": lambda s: Problem(guide(COARSE, 2), measured(AveragePool(4), s), overlap()),
    "denoise": lambda s: Problem(measurement=measured(Identity(), s)),
    "grey": lambda s: Problem(measurement=measured(Grey(), s), known=overlap()),
    "inpaint": lambda s: Problem(guide(COARSE, 2), masked(s), overlap()),
    "old photo": lambda s: Problem(
        measurement=measured(compose(MaskedPool(2, masks()), Grey()), s)
    ),
}
CASES = [
    (method, task, form)
    for method, info in METHODS.items()
    for form in info.forms
    for task in PROBLEMS
    if info.takes != "mask" or task in ("generate", "generate with overlap", "guide", "inpaint")
]


@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
@pytest.mark.parametrize(("method", "task", "form"), CASES)
def test_a_batch_of_four_equals_four_batches_of_one(method, task, form, sigma_y):
    problem = PROBLEMS[task](sigma_y)
    settings = config(3, (1, 2), method=method, form=form)
    batch = sample(SmallConv(), problem, settings, NOISE, KEYS, SHAPE)
    alone = [
        sample(SmallConv(), problem.select([i]), settings, NOISE, [KEYS[i]], SHAPE)
        for i in range(4)
    ]
    assert batch.numpy().tobytes() == torch.cat(alone).numpy().tobytes()
    assert batch.isfinite().all()
    assert len({tile.numpy().tobytes() for tile in batch}) == 4 or task == "denoise"


@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
@pytest.mark.parametrize("method", ["ilvr", "ddrm", "pigdm", "dps"])
def test_a_blur_with_many_singular_values_serves_and_does_not_depend_on_the_batch(method, sigma_y):
    blur = Separable.build(
        gaussian(0.8, 5), 16, [(0, 0, 16, 16), (0, 0, 16, 12), (4, 0, 16, 16), (0, 0, 9, 9)], 0.01
    )
    problem = Problem(measurement=measured(blur, sigma_y), known=overlap())
    settings = config(3, (1, 2), method=method)
    batch = sample(SmallConv(), problem, settings, NOISE, KEYS, SHAPE)
    alone = [
        sample(SmallConv(), problem.select([i]), settings, NOISE, [KEYS[i]], SHAPE)
        for i in range(4)
    ]
    assert batch.numpy().tobytes() == torch.cat(alone).numpy().tobytes()
    assert torch.equal(batch[..., :8], problem.known.value[..., :8])


@pytest.mark.parametrize("method", METHODS)
def test_tiles_at_different_steps_of_one_batch_end_as_if_alone(method):
    settings = config(method=method)
    denoiser = SmallConv()
    problem = PROBLEMS["inpaint"](0.1)
    begin = lambda i: start(problem.select([i]), settings, NOISE, [KEYS[i]], SHAPE)  # noqa: E731
    state = begin(0)
    waiting = list(range(1, 4))
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


@pytest.mark.parametrize(("method", "task", "form"), CASES)
def test_noise_free_constraints_are_exact_and_known_pixels_bit_equal(method, task, form):
    problem = PROBLEMS[task](0.0)
    settings = config(3, (1, 2), method=method, form=form)
    result = sample(SmallConv(), problem, settings, NOISE, KEYS, SHAPE)
    if problem.known is not None:
        assert torch.equal(result[..., :8], problem.known.value[..., :8])
    free = sample(SmallConv(), replace(problem, known=None), settings, NOISE, KEYS, SHAPE)
    last = problem.measurement or problem.guide
    if last is not None:
        error = last.operator.A(free) - last.operator.A(last.operator.pinv(last.y))
        assert error.abs().max() < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_with_a_noisy_measurement_the_guide_holds_and_known_pixels_are_bit_equal(method):
    problem = Problem(guide(COARSE, 2), masked(0.2), overlap())
    result = sample(SmallConv(), problem, config(method=method), NOISE, KEYS, SHAPE)
    assert torch.equal(result[..., :8], problem.known.value[..., :8])
    assert (AveragePool(2).A(result) - COARSE)[..., 4:].abs().max() < 1e-5
    assert not torch.allclose(
        result[..., 8:], problem.measurement.y[..., 8:].nan_to_num(), atol=1e-3
    )


def prior():
    """A smooth prior: neighbouring pixels of a 4 x 4 block are alike."""
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()], 1)
    near = torch.exp(-torch.cdist(place, place).square() / 8).double()
    return GaussianDenoiser(
        torch.zeros(3, 4, 4), 0.1 * torch.block_diag(near, near, near) + 0.001 * torch.eye(48)
    )


def drawn_from(prior):
    """Return a picture of the prior, (1, 3, 16, 16)."""
    root = (prior.basis * prior.variances.sqrt()).float()
    blocks = torch.randn(4, 4, 48, generator=torch.Generator().manual_seed(3)) @ root.T
    return blocks.reshape(4, 4, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(1, *SHAPE)


def before_the_last_step(problem, settings):
    state = start(problem, settings, NOISE, KEYS[:1], SHAPE)
    while settings.times[state.position[0] + 1] >= 0:
        state = advance(prior(), state, settings, NOISE)
    return state.x


@pytest.mark.parametrize("method", METHODS)
def test_every_constraint_acts_long_before_it_is_made_exact(method):
    truth = drawn_from(prior())
    settings = config(steps=20, travel=(1, 1), method=method)
    left = Mask(overlap().mask[:1])
    operators = [left] if METHODS[method].takes == "mask" else [left, AveragePool(4), Grey()]
    problems = [Problem(measurement=Measurement(a, a.A(truth))) for a in operators]
    problems += [
        Problem(guide=guide(AveragePool(2).A(truth), 2)),
        Problem(known=Known(left.mask, truth)),
    ]
    unconstrained = before_the_last_step(Problem(), settings)
    for problem, a in zip(problems, [*operators, AveragePool(2), left], strict=True):
        error = lambda x, a=a: float((a.A(x) - a.A(truth)).square().mean().sqrt())  # noqa: E731
        assert error(before_the_last_step(problem, settings)) < 0.6 * error(unconstrained), (
            method,
            a,
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_start_and_noise_scale_zero_serve_every_method(method):
    noise = CountingNoise()
    settings = config(method=method, first=300, noise_scale=0.0)
    problem = PROBLEMS["inpaint"](0.0)
    x_init = randn(4, *SHAPE, seed=9)
    result = sample(SmallConv(), problem, settings, noise, KEYS, SHAPE, x_init)
    assert noise.drawn == []
    other = sample(SmallConv(), problem, settings, noise, KEYS, SHAPE, x_init.flip(0))
    assert not torch.equal(result, other)
    scaled = [
        sample(SmallConv(), problem, config(method=method, noise_scale=k), NOISE, KEYS, SHAPE)
        for k in (0.5, 1.0)
    ]
    assert not torch.equal(*scaled)


@pytest.mark.parametrize("method", METHODS)
def test_every_transition_has_its_draws_in_order(method):
    noise = CountingNoise()
    settings = config(steps=6, method=method)
    problem = PROBLEMS["inpaint"](0.0).select([0])
    sample(SmallConv(), problem, settings, noise, KEYS[:1], SHAPE)
    # A method with two draws per reverse step takes the second after the step's own; those of t = 0
    # are not made.
    moves = zip(settings.times[:-2], settings.times[1:-1], strict=True)
    count = 1 + sum(describe_method(method).draws if later < now else 1 for now, later in moves)
    assert noise.drawn == [(KEYS[0], i) for i in range(count)]


def test_ilvr_leaves_the_state_alone_at_and_below_its_stop():
    problem = Problem(measurement=measured(AveragePool(4), 0.0))
    run = lambda **o: sample(SmallConv(), problem, config(method="ilvr", **o), NOISE, KEYS, SHAPE)  # noqa: E731
    free = sample(SmallConv(), Problem(), config(), NOISE, KEYS, SHAPE)
    always = run()
    never = run(parameters=MethodConfig(ilvr_stop=999))
    assert torch.equal(always, run(parameters=MethodConfig(ilvr_stop=0)))
    assert not torch.allclose(always, never, atol=1e-2)
    assert not torch.allclose(never, free, atol=1e-2)  # still closed at the end


def test_ddrm_starts_measured_directions_at_the_measurement():
    pool = measured(AveragePool(4), 0.02)
    settings = config(first=300, method="ddrm")

    def begin(measurement):
        return start(Problem(measurement=measurement), settings, NOISE, KEYS, SHAPE, picture).x

    a, s = (math.sqrt(v) for v in (linear_alpha_bar()[300], 1 - linear_alpha_bar()[300]))
    picture = torch.zeros(4, *SHAPE)
    found = AveragePool(4).A(begin(pool))
    free = AveragePool(4).A(begin(None))
    # Noise of a mean of 16 pixels, less what the measurement brings.
    fresh = math.sqrt(s**2 / 16 - (a * 0.02) ** 2) / (s / 4)
    assert torch.allclose(found, a * pool.y + fresh * free, atol=1e-6)


def test_ddrm_with_eta_b_below_one_trusts_its_estimate_too():
    problem = Problem(measurement=measured(AveragePool(4), 0.0))
    run = lambda eta_b: sample(  # noqa: E731
        SmallConv(),
        problem,
        config(method="ddrm", parameters=MethodConfig(eta_b=eta_b)),
        NOISE,
        KEYS,
        SHAPE,
    )
    assert not torch.allclose(run(1.0), run(0.5), atol=1e-3)


@pytest.mark.slow
def test_only_gradient_methods_need_the_graph():
    class Watching(SmallConv):
        graph = ()

        def __call__(self, x_t, t):
            self.graph = (*self.graph, x_t.requires_grad)
            return super().__call__(x_t, t)

    for method, info in METHODS.items():
        denoiser = Watching()
        sample(denoiser, PROBLEMS["inpaint"](0.0), config(method=method), NOISE, KEYS, SHAPE)
        assert set(denoiser.graph) == {info.needs_gradient}
        result = sample(denoiser, Problem(), config(method=method), NOISE, KEYS, SHAPE)
        assert not result.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "edict"},
            "unknown method 'edict'; known: ddnm, repaint, ilvr, ddrm, pigdm, dps",
        ),
        ({"method": "ddrm", "form": "posterior"}, "method ddrm has no form 'posterior'"),
        ({"eta": 1.5}, "eta 1.5 is outside"),
        ({"form": "eps", "eta": (0.5,) * 4 + (-0.1,)}, "eta -0.1 is outside"),
        ({"form": "eps", "eta": (0.5,) * 3}, "a table of 3 etas"),
        ({"eta": (0.5,) * 5}, "needs form 'eps'"),
        ({"eta": None}, "eta None is outside"),
        ({"eta": "ddim"}, "eta 'ddim' is unknown"),
        ({"eta": "analytic"}, "needs eps_power"),
        ({"eta": "analytic", "eps_power": (0.9,) * 4}, "eps_power must hold 5"),
        ({"eta": "analytic", "eps_power": (math.nan,) * 5}, "eps_power must hold 5"),
    ],
)
def test_bad_settings_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        config(**options)


@pytest.mark.parametrize("field", ["zeta", "eta_b", "ilvr_stop", "pigdm_variance"])
def test_bad_parameters_are_refused_by_name(field):
    with pytest.raises(ValueError, match=f"^{field} -1[^\n]*$"):
        MethodConfig(**{field: -1})


@pytest.mark.parametrize(
    ("method", "measurement", "message"),
    [
        (
            "repaint",
            measured(AveragePool(4), 0.0),
            r"repaint restores masked pixels only, not AveragePool\(4\)",
        ),
        (
            "ddrm",
            measured(SmoothPool(4), 0.0),
            "ddrm needs known singular values .* which SmoothPool lacks",
        ),
        ("pigdm", measured(SmoothPool(4), 0.1), "pigdm .* needs known singular values"),
    ],
)
def test_a_method_that_cannot_do_the_task_is_refused(method, measurement, message):
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        sample(
            SmallConv(), Problem(measurement=measurement), config(method=method), NOISE, KEYS, SHAPE
        )


@pytest.mark.parametrize("task", [name for name in PROBLEMS if not name.startswith("generate")])
def test_ddrm_accepts_every_operator_whose_singular_values_are_known(task):
    start(PROBLEMS[task](0.1), config(method="ddrm"), NOISE, KEYS, SHAPE)
