"""Tiles share batches of any size and memory runs out: every tile keeps its bytes."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.denoiser_info import DenoiserInfo
from kernels.noise import KeyedNoise
from kernels.operators.elementary import AveragePool, Mask
from kernels.sampling.classifier_guidance import Guidance
from kernels.sampling.constraints import Known, Measurement, Problem, guide
from kernels.sampling.memory_limit import advance_within
from kernels.sampling.sampler import SamplerConfig, sample, start
from kernels.schedule import Schedule, linear_alpha_bar, respaced_timesteps, time_travel

TILES = 5
KEYS = tuple((0, i, 7 - i) for i in range(TILES))
SHAPE = (3, 16, 16)
NOISE = KeyedNoise(11)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


class SmallConv:
    """A random convolutional network that holds a step's answers for as long as somebody needs
    them.
    """

    info = DenoiserInfo(name="small", tile=16, multiple=1)

    def __init__(self):
        self.first = randn(8, 3, 3, 3, seed=1) / 4
        self.second = randn(3, 8, 3, 3, seed=2) / 4

    def __call__(self, x_t, t):
        h = torch.nn.functional.silu(torch.nn.functional.conv2d(x_t, self.first, padding=1))
        return (
            torch.nn.functional.conv2d(h, self.second, padding=1) + 0.001 * t[:, None, None, None]
        )


def pull(x, timesteps):
    return torch.tanh(x) * 0.1


def known():
    mask = torch.zeros(TILES, 1, 16, 16, dtype=torch.bool)
    mask[..., :6] = True
    return Known(mask, randn(TILES, *SHAPE, seed=5))


def measured(operator, sigma_y=0.0):
    return Measurement(operator, operator.A(randn(TILES, *SHAPE, seed=6)), sigma_y)


def masks():
    return torch.rand(TILES, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.7


CASES = {
    "ddnm": (
        {},
        lambda: Problem(
            guide(randn(TILES, 3, 8, 8, seed=4), 2), measured(AveragePool(4), 0.1), known()
        ),
    ),
    "ddnm, guided": (
        {"form": "eps"},
        lambda: Problem(measurement=measured(AveragePool(4)), known=known()),
    ),
    "repaint": (
        {"method": "repaint"},
        lambda: Problem(measurement=measured(Mask(masks())), known=known()),
    ),
    "ilvr": (
        {"method": "ilvr"},
        lambda: Problem(measurement=measured(AveragePool(2), 0.1), known=known()),
    ),
    "ddrm": (
        {"method": "ddrm"},
        lambda: Problem(measurement=measured(AveragePool(4), 0.1), known=known()),
    ),
    "pigdm": (
        {"method": "pigdm"},
        lambda: Problem(measurement=measured(AveragePool(4)), known=known()),
    ),
    "dps": (
        {"method": "dps"},
        lambda: Problem(measurement=measured(AveragePool(4)), known=known()),
    ),
    "less noise": (
        {"form": "eps", "noise_scale": 0.5},
        lambda: Problem(measurement=measured(Mask(masks()))),
    ),
}
MEMO = {}


def case(name):
    """Return process, problem, guidance, and every tile's bytes when it is alone."""
    if name not in MEMO:
        options, problem = CASES[name]
        schedule = Schedule.from_timesteps(linear_alpha_bar(), respaced_timesteps(1000, 5))
        config = SamplerConfig(schedule=schedule, times=tuple(time_travel(5, 2, 2)), **options)
        guidance = Guidance(gradient=pull, scale=2.0) if "guided" in name else None
        whole = problem()
        alone = [
            sample(
                SmallConv(), whole.select([i]), config, NOISE, [KEYS[i]], SHAPE, guidance=guidance
            )
            .numpy()
            .tobytes()
            for i in range(TILES)
        ]
        MEMO[name] = config, whole, guidance, alone
    return MEMO[name]


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
@pytest.mark.slow
def test_tiles_in_any_batch_and_any_memory_keep_their_bytes(name, data):
    """Any order, any number at a time, any memory: each tile's result is the one it has alone."""
    config, problem, guidance, alone = case(name)
    waiting = data.draw(st.permutations(range(TILES)))
    most = data.draw(st.integers(1, TILES))
    denoiser = SmallConv()
    results = {}
    while waiting:
        size = data.draw(st.integers(1, len(waiting)))
        batch, waiting = waiting[:size], waiting[size:]
        keys = [KEYS[i] for i in batch]
        state = start(problem.select(batch), config, NOISE, keys, SHAPE, guidance=guidance)
        while not all(state.finished(config)):
            state, fitted = advance_within(denoiser, state, config, NOISE, most)
            assert fitted == most, "nothing was short of memory"
        results |= {
            key: tile.numpy().tobytes()
            for key, tile in zip(state.keys, state.estimate, strict=True)
        }
    assert [results[key] for key in KEYS] == alone


class Tight(SmallConv):
    """A network for `room` tiles at a time: what it answered before counts for as long as it is
    held.
    """

    def __init__(self, room, error):
        super().__init__()
        self.room = room
        self.error = error
        self.refused = 0
        self.held = []

    def __call__(self, x_t, t):
        self.held = [answer for answer in self.held if answer() is not None]
        if len(self.held) + len(x_t) > self.room:
            self.refused += 1
            raise self.error
        answer = super().__call__(x_t, t)
        self.held.append(weakref.ref(answer))
        return answer


@pytest.mark.parametrize("room", [1, 2, 3])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate"),
    ],
    ids=["device", "python", "torch on the CPU"],
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(room, error):
    config, problem, _, alone = case("ddnm")
    denoiser = Tight(room, error)
    most = TILES
    state = start(problem, config, NOISE, KEYS, SHAPE)
    while not all(state.finished(config)):
        state, most = advance_within(denoiser, state, config, NOISE, most)
    assert [tile.numpy().tobytes() for tile in state.estimate] == alone
    assert most == min(room, 2), "5 do not fit, 2 do unless there is room for one only"
    assert denoiser.refused == 3 - most, "what did not fit is not tried again"


def test_a_tile_that_does_not_fit_alone_is_the_callers_trouble():
    config, problem, _, _ = case("ddnm")
    state = start(problem, config, NOISE, KEYS, SHAPE)
    with pytest.raises(MemoryError):
        advance_within(Tight(0, MemoryError()), state, config, NOISE, TILES)


def test_an_error_of_another_kind_is_not_taken_for_a_lack_of_memory():
    config, problem, _, _ = case("ddnm")
    denoiser = Tight(0, RuntimeError("CUDA error: an illegal memory access"))
    state = start(problem, config, NOISE, KEYS, SHAPE)
    with pytest.raises(RuntimeError, match="illegal"):
        advance_within(denoiser, state, config, NOISE, TILES)
    assert denoiser.refused == 1
