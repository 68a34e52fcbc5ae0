"""A network is tried on noised windows: the reading that it was trained for leaves least of the
noise, and a wrong one is found out.
"""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kernels.denoisers.denoising_trial import (
    CLEARLY,
    LIMIT,
    BestReading,
    ReadingTrial,
    try_readings,
)
from kernels.denoisers.reading_advice import advice, settings_of
from kernels.denoisers.trial_candidates import candidates_of
from tests.kernels.denoisers.small_networks import forget_modules
from tests.priors import small_guided

WRONG_WAYS = """
    import torch
    from kernels.denoisers.builtin import load_builtin
    from kernels.schedule import linear_alpha_bar, cosine_alpha_bar

    PRIOR = load_builtin()
    LINEAR = torch.from_numpy(linear_alpha_bar(1000)).float()

    def weights(t, table=LINEAR):
        return [w[t][:, None, None, None] for w in (table.sqrt(), (1 - table).sqrt())]

    def at(z, sigma):
        "eps of z = x_0 + sigma n, asked at the nearest timestep"
        levels = ((1 - LINEAR) / LINEAR).sqrt()
        t = (levels.log() - sigma.flatten()[0].log()).abs().argmin()[None]
        return PRIOR(weights(t)[0] * z, t)

    def right(x_t, t):
        return PRIOR(x_t, t)

    def negated(x_t, t):
        return -PRIOR(x_t, t)

    def picture(x_t, t):
        a, s = weights(t)
        return (x_t - s * PRIOR(x_t, t)) / a

    def velocity(x_t, t):
        a, s = weights(t)
        return a * PRIOR(x_t, t) - s * picture(x_t, t)

    def bytes_of(x_t, t):
        a, s = weights(t)
        return at(x_t / a / 127.5 - 1, s / a / 127.5)

    def cosine(x_t, t):
        a, s = weights(t, torch.from_numpy(cosine_alpha_bar(1000)).float())
        return at(x_t / a, s / a)

    def fractions(x_t, t):
        return PRIOR(x_t, (t * 1000).round().long().clamp(max=999))

    def zeros(x_t, t):
        return torch.zeros_like(x_t)

    def noise(x_t, t):
        return torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1))

    def nan(x_t, t):
        return x_t * float("nan")

    def denoised(z, sigma):
        return z - sigma[:, None, None, None] * at(z, sigma)

    def residual(z, sigma):
        return at(z, sigma)
"""
WINDOWS = list(small_guided.draw(2, seed=77, side=32))
SIGMAS = (0.25, 0.5, 1.0)


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_ways.py").write_text(dedent(WRONG_WAYS))
    forget_modules(monkeypatch, tmp_path, "wrong_ways")


def tried(ref: str) -> list[ReadingTrial]:
    return try_readings(candidates_of(ref, None), WINDOWS, SIGMAS)


@pytest.mark.parametrize("ref", ["builtin", "module:wrong_ways:right", "sigma:wrong_ways:denoised"])
def test_a_network_that_is_read_rightly_denoises(ref: str) -> None:
    verdict = BestReading.of(tried(ref))
    assert verdict.denoises
    assert verdict.stated.residual < 0.6


@pytest.mark.parametrize(
    ("ref", "field", "value", "says"),
    [
        ("module:wrong_ways:negated", "prediction", "negated", "returns the noise, where"),
        ("module:wrong_ways:picture", "prediction", "sample", "answers with the picture"),
        ("module:wrong_ways:velocity", "prediction", "v_prediction", "answers with v"),
        ("module:wrong_ways:bytes_of", "ends", (0.0, 255.0), "pictures from 0 to 255"),
        ("module:wrong_ways:cosine", "schedule", "cosine", "has alpha_bar = 'cosine'"),
        ("module:wrong_ways:fractions", "timestep_scale", 0.001, "multiplies timesteps by 0.001"),
        ("sigma:wrong_ways:residual", "prediction", "epsilon", "answers with the noise"),
    ],
)
def test_another_reading_is_found_and_named(ref: str, field: str, value: Any, says: str) -> None:
    verdict = BestReading.of(tried(ref))
    assert verdict.better
    assert not verdict.denoises
    assert getattr(verdict.best.reading, field) == value
    assert verdict.best.residual < CLEARLY * verdict.stated.residual
    scheme, _, path = ref.partition(":")
    assert says in advice(verdict, scheme, path)


@pytest.mark.parametrize("name", ["zeros", "noise", "nan"])
def test_what_denoises_in_no_reading_is_said_to(name: str) -> None:
    verdict = BestReading.of(tried(f"module:wrong_ways:{name}"))
    assert not verdict.denoises
    assert verdict.best.residual > LIMIT
    assert "untrained" in advice(verdict, "module", f"wrong_ways:{name}")


def test_heads_and_order_that_weights_do_not_show_are_found(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(small_guided.weights(), path)
    Path(f"{path}.json").write_text(json.dumps({"image_size": 16, "num_heads": 1}))
    windows = list(small_guided.draw(4, seed=5))
    trials = try_readings(candidates_of(f"guided-diffusion:{path}", None), windows)
    best = BestReading.of(trials).best.reading
    assert dict(best.settings)["num_heads"] == 2
    assert dict(best.settings)["use_new_attention_order"] is True
    assert best.schedule == "linear"
    said = settings_of(best, trials[0].reading)
    assert said == {"num_heads": 2, "use_new_attention_order": True, "noise_schedule": "linear"}
    Path(f"{path}.json").write_text(json.dumps({"image_size": 16, **said}))
    again = try_readings(candidates_of(f"guided-diffusion:{path}", None), windows)
    assert BestReading.of(again).denoises
    assert again[0].residual == pytest.approx(BestReading.of(trials).best.residual)


def test_an_untrained_checkpoint_denoises_in_no_reading(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in small_guided.weights().items()
    }
    path = tmp_path / "m.safetensors"
    save_file(weights, path)
    trials = try_readings(
        candidates_of(f"guided-diffusion:{path}", None).only({"num_heads"}),
        list(small_guided.draw(2, seed=5)),
        SIGMAS,
    )
    assert not BestReading.of(trials).denoises
