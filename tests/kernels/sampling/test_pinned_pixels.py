"""Pins that pull through the network: what is drawn beside them goes on as the prior would have
it.
"""

import pytest
import torch

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.analytic import GaussianDenoiser
from kernels.noise import KeyedNoise
from kernels.operators.elementary import AveragePool
from kernels.sampling.constraints import Known, Measurement, Problem
from kernels.sampling.memory_limit import advance_within
from kernels.sampling.sampler import SamplerConfig, SamplerState, sample, start
from kernels.schedule import Schedule, linear_alpha_bar, respaced_timesteps, time_travel

WIDTH = 16
PINNED = 8
BLOCKS = 2000
# Of neighbours in the Gaussian prior.
CORRELATION = 0.95
DEVIATION = 0.5


def process(steps, **changes):
    schedule = Schedule.from_timesteps(linear_alpha_bar(1000), respaced_timesteps(1000, steps))
    options = {"form": "posterior", "clip": False} | changes
    return SamplerConfig(schedule=schedule, times=tuple(time_travel(steps)), **options)


def lines():
    """Return a prior of lines of px, each like its neighbour, and the factor that draws them."""
    place = torch.arange(WIDTH, dtype=torch.float64)
    covariance = DEVIATION**2 * CORRELATION ** (place[:, None] - place[None]).abs()
    info = DenoiserInfo(name="lines", channels=1, multiple=1)
    prior = GaussianDenoiser(torch.zeros(1, 1, WIDTH), covariance, info)
    return prior, torch.linalg.cholesky(covariance)


def beside_the_pins(pins, steps=30):
    """Return pinned lines and what is drawn beside them, (BLOCKS, WIDTH) each."""
    prior, factor = lines()
    drawn = torch.randn(BLOCKS, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    truth = (drawn @ factor.T).float().reshape(1, 1, BLOCKS, WIDTH)
    mask = torch.zeros(1, 1, BLOCKS, WIDTH, dtype=torch.bool)
    mask[..., :PINNED] = True
    result = sample(
        prior,
        Problem(known=Known(mask, truth)),
        process(steps, pins=pins),
        KeyedNoise(3),
        [(0, 0, 0)],
        (1, BLOCKS, WIDTH),
    )
    return truth[0, 0], result[0, 0]


def step_at_the_border(picture):
    """Return the root mean square step from the last pinned pixel to the first free one."""
    return float((picture[:, PINNED] - picture[:, PINNED - 1]).square().mean().sqrt())


def test_a_pull_leaves_the_step_that_the_prior_has_and_replacing_a_larger_one():
    prior_step = DEVIATION * (2 * (1 - CORRELATION)) ** 0.5
    _, pulled = beside_the_pins("gradient")
    _, replaced = beside_the_pins("replace")
    assert step_at_the_border(pulled) < 1.2 * prior_step
    assert step_at_the_border(replaced) > 1.5 * prior_step


def test_free_pixels_follow_the_pins_as_far_as_the_prior_says():
    truth, pulled = beside_the_pins("gradient")
    last_pin = truth[:, PINNED - 1]
    for distance in (1, 2, 4):
        drawn = pulled[:, PINNED - 1 + distance]
        slope = float((drawn * last_pin).mean() / last_pin.square().mean())
        assert slope == pytest.approx(CORRELATION**distance, rel=0.1)


def test_far_from_the_pins_the_pull_keeps_mean_and_spread_of_the_prior():
    _, pulled = beside_the_pins("gradient")
    last = pulled[:, -1]
    assert abs(float(last.mean())) < 4 * DEVIATION / BLOCKS**0.5
    assert float(last.std()) == pytest.approx(DEVIATION, rel=0.1)


@pytest.mark.parametrize("form", ["posterior", "eps"])
def test_pinned_pixels_keep_their_bits(form):
    prior, _ = lines()
    mask = torch.zeros(2, 1, 4, WIDTH, dtype=torch.bool)
    mask[1, :, :2] = True
    values = torch.randn(2, 1, 4, WIDTH, generator=torch.Generator().manual_seed(5)) / 3
    result = sample(
        prior,
        Problem(known=Known(mask, values)),
        process(6, pins="gradient", form=form, clip=True),
        KeyedNoise(3),
        [(0, 0, 0), (0, 0, 1)],
        (1, 4, WIDTH),
    )
    assert torch.equal(result[mask], values[mask])


def test_with_a_white_prior_free_pixels_learn_nothing_from_pins():
    info = DenoiserInfo(name="white", channels=1, multiple=1)
    white = GaussianDenoiser(torch.zeros(1, 1, 1), torch.ones(1, 1).double(), info)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    values = torch.full((1, 1, 8, 8), 0.7)
    results = [
        sample(
            white,
            Problem(known=Known(mask, values)),
            process(8, pins=pins),
            KeyedNoise(3),
            [(0, 0, 0)],
            (1, 8, 8),
        )
        for pins in ("replace", "gradient")
    ]
    assert torch.allclose(*results, atol=1e-5)


class Curve:
    """A network that is not linear, so that its derivative depends on where it is taken."""

    info = DenoiserInfo(name="curve", channels=3, tile=16, multiple=1)

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.first = torch.randn(8, 3, 3, 3, generator=generator) / 4
        self.second = torch.randn(3, 8, 3, 3, generator=generator) / 4

    def __call__(self, x_t, t):
        h = torch.nn.functional.silu(torch.nn.functional.conv2d(x_t, self.first, padding=1))
        return torch.nn.functional.conv2d(h, self.second, padding=1)

    def to(self, device):
        return self


def batch_of(rows):
    """Return the problem of chosen tiles of five; the first and the fourth have no pins."""
    generator = torch.Generator().manual_seed(9)
    mask = torch.zeros(5, 1, 16, 16, dtype=torch.bool)
    for tile in (1, 2, 4):
        mask[tile, :, : 3 * tile] = True
    values = torch.randn(5, 3, 16, 16, generator=generator).clamp(-1, 1)
    y = torch.nn.functional.avg_pool2d(values, 4)
    whole = Problem(measurement=Measurement(AveragePool(4), y), known=Known(mask, values))
    return whole.select(rows)


@pytest.mark.parametrize("method", ["ddnm", "ilvr", "ddrm"])
def test_tiles_with_and_without_pins_share_any_batch_and_keep_their_bytes(method):
    form = "eps" if method == "ddrm" else "posterior"
    config = process(5, pins="gradient", method=method, form=form, clip=True)
    keys = [(0, i, 0) for i in range(5)]

    def restore(rows):
        shape = (3, 16, 16)
        noise = KeyedNoise(2)
        return sample(Curve(), batch_of(rows), config, noise, [keys[i] for i in rows], shape)

    together = restore([0, 1, 2, 3, 4])
    for rows in ([0], [1], [4, 0], [2, 3, 1]):
        assert torch.equal(restore(rows), together[rows])


def test_tiles_join_a_batch_at_any_step_and_keep_their_bytes():
    config = process(5, pins="gradient", clip=True)
    noise = KeyedNoise(2)
    shape = (3, 16, 16)

    def to_the_end(state):
        while not all(state.finished(config)):
            state, _ = advance_within(Curve(), state, config, noise, len(state.keys))
        return state.estimate

    def begun(rows):
        return start(batch_of(rows), config, noise, [(0, i, 0) for i in rows], shape)

    early, _ = advance_within(Curve(), begun([1, 3]), config, noise, 2)
    joined = SamplerState.cat([early, begun([0, 4])])
    rows = []
    while joined.keys:
        done = joined.finished(config)
        rows += [(joined.keys[i][1], joined.estimate[i]) for i, d in enumerate(done) if d]
        joined = joined.select([i for i, d in enumerate(done) if not d])
        if joined.keys:
            joined, _ = advance_within(Curve(), joined, config, noise, len(joined.keys))
    alone = to_the_end(begun([0, 1, 3, 4]))
    together = dict(rows)
    for place, tile in enumerate([0, 1, 3, 4]):
        assert torch.equal(together[tile], alone[place])
