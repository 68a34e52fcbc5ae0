"""With a prior that draws, a picture of several tiles shows where they meet, and less so where pins
pull.
"""

import numpy as np
import pytest
import torch

from kernels.denoisers.denoiser import load_denoiser
from kernels.noise import KeyedNoise
from kernels.sampling.constraints import Known, Problem
from kernels.sampling.sampler import SamplerConfig, sample
from kernels.schedule import Schedule, linear_alpha_bar, respaced_timesteps, time_travel
from kernels.seams import SeamMeter
from tests.places import ROOT

pytestmark = pytest.mark.slow

TILE = 32
STRIDE = 24
SIDE = TILE + STRIDE
STEPS = 12


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def process(pins):
    schedule = Schedule.from_timesteps(linear_alpha_bar(1000), respaced_timesteps(1000, STEPS))
    times = tuple(time_travel(STEPS))
    return SamplerConfig(schedule=schedule, times=times, form="posterior", pins=pins)


def drawn(prior, pins, seed):
    """Return a picture (SIDE, SIDE) of 2 x 2 tiles, one after the other."""
    picture = torch.zeros(1, 1, SIDE, SIDE)
    done = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    for row in range(2):
        for col in range(2):
            top = row * STRIDE
            left = col * STRIDE
            box = (..., slice(top, top + TILE), slice(left, left + TILE))
            tile = sample(
                prior,
                Problem(known=Known(done[box].clone(), picture[box].clone())),
                process(pins),
                KeyedNoise(seed),
                [(0, row, col)],
                (1, TILE, TILE),
            )
            picture[box] = torch.where(done[box], picture[box], tile.clamp(-1, 1))
            done[box] = True
    return picture[0, 0].numpy()


def seam_ratio(picture):
    edges = [TILE]
    meter = SeamMeter(
        height=SIDE, width=SIDE, row_edges=edges, column_edges=edges, stride=STRIDE, period=1
    )
    meter.update(0, 0, ((picture + 1) * 127.5)[None].astype(np.float32))
    return meter.result().overall.ratio


@pytest.mark.parametrize("family", ["discs", "rings"])
def test_pins_that_pull_leave_less_of_a_seam_than_pins_that_replace(family):
    prior = load_denoiser(f"guided-diffusion:{ROOT / 'tests' / 'priors' / family}.safetensors")
    ratios = {
        pins: np.mean([seam_ratio(drawn(prior, pins, seed)) for seed in range(3)])
        for pins in ("replace", "gradient")
    }
    assert ratios["replace"] > 2
    assert ratios["gradient"] < 0.75 * ratios["replace"]
