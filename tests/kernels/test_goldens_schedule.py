"""Schedules, respacing, time travel and operators against the golden vectors."""

import json

import numpy as np
import pytest
import torch

from kernels.operators.elementary import AveragePool, Grey, Mask
from kernels.sampling.constraints import ddnm_plus
from kernels.schedule import (
    Schedule,
    cosine_alpha_bar,
    linear_alpha_bar,
    network_calls,
    respaced_timesteps,
    sectioned_timesteps,
    strided_timesteps,
    time_travel,
)
from tests.places import GOLDEN


def test_respacing_maps_equal_the_golden_ones():
    for request, expected in json.loads((GOLDEN / "schedule/respacing.json").read_text())[
        "maps"
    ].items():
        if request.startswith("ddim"):
            kept = strided_timesteps(1000, int(request.removeprefix("ddim")))
        elif "," in request:
            kept = sectioned_timesteps(1000, [int(count) for count in request.split(",")])
        else:
            kept = respaced_timesteps(1000, int(request))
        assert kept.tolist() == expected, request


def test_float64_tables_equal_the_golden_ones():
    with np.load(GOLDEN / "schedule/schedules.npz") as golden:
        for steps in (1000, 250, 100, 12, 10):
            schedule = Schedule.from_timesteps(linear_alpha_bar(), respaced_timesteps(1000, steps))
            tables = {
                "betas": schedule.beta,
                "alphas_cumprod": schedule.alpha_bar,
                "posterior_variance": schedule.posterior_variance,
                "posterior_mean_coef1": schedule.c1,
                "posterior_mean_coef2": schedule.c2,
            }
            assert np.array_equal(schedule.timesteps, golden[f"linear_T{steps}_timestep_map"])
            for table, values in tables.items():
                assert np.array_equal(values, golden[f"linear_T{steps}_{table}"]), (steps, table)
        cosine = Schedule.from_timesteps(cosine_alpha_bar(), range(1000))
        np.testing.assert_allclose(cosine.beta, golden["cosine_1000_betas"], rtol=1e-9)


def test_time_travel_sequences_equal_the_golden_ones():
    for case in json.loads((GOLDEN / "schedule/time_travel.json").read_text()):
        times = time_travel(case["T"], case["jump_length"], case["jump_repeat"])
        assert times == case["times"]
        assert network_calls(times) == case["n_reverse"]
        assert len(times) - 1 - network_calls(times) == case["n_forward"]


# The golden grey operator weighs the channels .3333, .3334, .3333; ours is the mean, whence the
# wider bounds.
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("sr_averagepooling4", 1e-6), ("inpainting", 1e-6), ("colorization", 6e-4)],
)
def test_operators_and_their_spectral_ddnm_plus_maps_equal_the_golden_ones(name, tolerance):
    with np.load(GOLDEN / f"operators/{name}.npz") as arrays:
        golden = {k: torch.from_numpy(arrays[k]).double() for k in arrays.files}
    x = golden["x"]
    (v, z, e) = (golden[k].reshape(golden["x"].shape) for k in "vze")
    if name == "inpainting":
        operator = Mask(golden["mask"].expand(2, 1, -1, -1).bool())
        assert torch.equal(operator.pinv(operator.A(x)), golden["pinv"])
    else:
        operator = AveragePool(4) if name.startswith("sr") else Grey()
        assert (operator.A(x).flatten(1) - golden["y"]).abs().max() <= tolerance
        assert (operator.pinv(operator.A(x)) - golden["pinv"]).abs().max() <= tolerance
    s = operator.singular_values(x)
    nonzero = s if isinstance(s, float) else float(s.max())
    assert (golden["singulars"] - nonzero).abs().max() <= 1e-6
    for i, (alpha, sigma_y, tau, eta) in enumerate(golden["cfg"]):
        lam, fresh = ddnm_plus(alpha, tau, eta, float(sigma_y), s)
        ranged = operator.range_project
        corrected = v - ranged(v) + lam * ranged(v)
        kept = tau * torch.sqrt(1 - eta**2)
        noise = tau * eta * z + (fresh - tau * eta) * ranged(z) + kept * (e - ranged(e))
        assert (corrected - golden[f"Lambda_proper_{i}"]).abs().max() <= tolerance
        assert (noise - golden[f"Lambda_noise_proper_{i}"]).abs().max() <= tolerance
