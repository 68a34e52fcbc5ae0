"""The sampler on a tensor returns what the sampler returns by hand, for every method."""

import numpy as np
import pytest
import torch

import gigarestore as gr
from kernels.denoisers.denoiser import load_denoiser
from kernels.noise import KeyedNoise
from kernels.operators.elementary import AveragePool
from kernels.sampling.constraints import Measurement, Problem
from kernels.sampling.method_registry import METHODS
from kernels.sampling.sampler import SamplerConfig
from kernels.sampling.sampler import sample as sample_by_hand
from kernels.schedule import Schedule, linear_alpha_bar, respaced_timesteps, time_travel

# A kernel that is no product of two axes.
SKEWED = np.array([[0.0, 0.1, 0.0], [0.3, 0.2, 0.1], [0.1, 0.1, 0.1]])


@pytest.fixture(scope="module")
def y():
    """Two measurements of 8 x 8 px in [-1, 1]."""
    return torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_sample_is_the_sampler_run_by_hand(y):
    table = linear_alpha_bar(1000)
    timesteps = respaced_timesteps(1000, 4)
    config = SamplerConfig(
        schedule=Schedule.from_timesteps(table, timesteps),
        times=tuple(time_travel(4, 2, 2)),
        form="eps",
        eta=0.5,
    )
    problem = Problem(measurement=Measurement(AveragePool(4), y, 0.1))
    keys = [(0, 0, 0), (0, 0, 1)]
    denoiser = load_denoiser("builtin")
    expected = sample_by_hand(denoiser, problem, config, KeyedNoise(7), keys, (3, 32, 32))

    x = gr.sample(
        "builtin",
        gr.operators.average_pool(4),
        y,
        steps=4,
        form="eps",
        eta=0.5,
        sigma=0.1,
        seed=7,
        travel=(2, 2),
    )

    assert torch.equal(x, expected)
    assert x.dtype == torch.float32


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_gives_pictures_that_measure_y(method, y):
    known = np.indices((32, 32)).sum(axis=0) % 3 > 0
    masked = method == "repaint"
    operator = gr.operators.mask(known) if masked else gr.operators.average_pool(4)
    truth = torch.nn.functional.interpolate(y, scale_factor=4, mode="bilinear")
    measured = operator.A(truth)

    x = gr.sample("analytic", operator, measured, method=method, steps=3, seed=1)

    assert x.shape == (2, 3, 32, 32)
    assert (operator.A(x) - measured).abs().max() < 1e-5


@pytest.mark.parametrize(
    "operator",
    [
        gr.operators.identity(),
        gr.operators.grey(),
        gr.operators.compose(gr.operators.grey(), gr.operators.average_pool(4)),
        gr.operators.hadamard(0.25, block=8),
        gr.operators.masked_pool(4, np.indices((32, 32)).sum(axis=0) % 3 > 0),
        gr.operators.bicubic(4, (32, 32), 2),
        gr.operators.blur("uniform:3", (32, 32), 2),
        gr.operators.blur(
            np.array([[0.0, 0.1, 0.0], [0.3, 0.2, 0.1], [0.1, 0.1, 0.1]]), (32, 32), 2
        ),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_every_operator_can_be_inverted(operator):
    truth = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1)) - 0.5

    x = gr.sample("analytic", operator, operator.A(truth), steps=4)

    assert x.shape == truth.shape
    assert torch.isfinite(x).all()


def test_an_oblong_picture_can_be_deblurred_exactly():
    operator = gr.operators.bicubic(2, (24, 40))
    truth = torch.rand((1, 3, 24, 40), generator=torch.Generator().manual_seed(2)) - 0.5
    measured = operator.A(truth)

    x = gr.sample("analytic", operator, measured, steps=3)

    assert x.shape == truth.shape
    assert (operator.A(x) - measured).abs().max() < 1e-4


def test_randomness_is_the_seeds_and_a_picture_does_not_depend_on_its_batch(y):
    pool = gr.operators.average_pool(4)

    torch.manual_seed(1)
    both = gr.sample("builtin", pool, y, steps=2, seed=3)
    torch.manual_seed(2)
    first = gr.sample("builtin", pool, y[:1], steps=2, seed=3)

    assert torch.equal(both[:1], first)
    assert not torch.equal(both[:1], gr.sample("builtin", pool, y[:1], steps=2, seed=4))


def test_a_warm_start_begins_at_the_enlarged_measurement_unless_told_otherwise(y):
    pool = gr.operators.average_pool(4)
    told = pool.pinv(y)

    assert torch.equal(
        gr.sample("analytic", pool, y, steps=3, start=200),
        gr.sample("analytic", pool, y, steps=3, start=200, x_init=told),
    )


def test_a_function_of_ones_own_and_an_array_are_taken(y):
    seen = []

    def eps(x_t, t):
        seen.append((tuple(x_t.shape), int(t[0])))
        return 0.1 * x_t

    x = gr.sample(eps, gr.operators.average_pool(4), y.numpy()[:1], steps=2, spacing="log_sigma")

    assert x.shape == (1, 3, 32, 32)
    assert [shape for shape, _ in seen] == [(1, 3, 32, 32)] * 2
    assert [t for _, t in seen] == [999, 0]


REFUSED = {
    "three axes": ({"y": torch.zeros(3, 8, 8)}, r"y= has shape \(3, 8, 8\)"),
    "integers": ({"y": torch.zeros(1, 3, 8, 8, dtype=torch.int64)}, "give floats"),
    "method": ({"method": "magic"}, "unknown method 'magic'; known: ddnm"),
    "mask only": ({"method": "repaint"}, "restores masked pixels only"),
    "steps": ({"steps": 0}, "0 steps do not fit"),
    "form": ({"method": "ddrm", "form": "posterior"}, "method ddrm has no form 'posterior'"),
    "eta": ({"form": "eps", "eta": 2.0}, "eta 2.0 is outside"),
    "sigma": ({"sigma": -1.0}, "sigma_y -1.0 is no standard deviation"),
    "seed": ({"seed": -1}, "seed -1 does not fit"),
    "shape": ({"shape": (3, 40, 40)}, "its operator measures"),
    "label": ({"label": 3}, "knows no classes, found class 3"),
    "denoiser": ({"denoiser": 7}, "denoiser= is a int"),
    "reference": ({"denoiser": "magic:x"}, "unknown denoiser 'magic:x'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line(case, y):
    changes, wanted = REFUSED[case]
    arguments = {"denoiser": "analytic", "y": y, **changes}

    with pytest.raises(ValueError, match=wanted) as refusal:
        gr.sample(operator=gr.operators.average_pool(4), **arguments)

    assert "\n" not in str(refusal.value)
