"""Every kind of denoiser is named by one reference, described before it is loaded, and refused in
one clear line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kernels.denoiser_info import SCHEMES
from kernels.denoisers.builtin import FORMAT, LocalUNet, PriorConfig
from kernels.denoisers.denoiser import load_denoiser
from kernels.denoisers.denoiser_registry import describe
from kernels.schedule import base_alpha_bar, linear_alpha_bar

MODELS = """
    import torch
    from torch import nn

    DRAWN = []

    def zero(x_t, t):
        return torch.zeros_like(x_t)

    class Scaled(nn.Module):
        channels = 5
        multiple = 4
        tile = 64
        alpha_bar = "cosine"
        content = "weights-1"

        def __init__(self):
            super().__init__()
            DRAWN.append(1)
            self.gain = nn.Parameter(torch.tensor(2.0))

        def forward(self, x_t, t):
            return self.gain * x_t + t[:, None, None, None]

    def gaussian(z, sigma):
        "D of a Gaussian prior with variance 1/4."
        return z * (0.25 / (0.25 + sigma**2))[:, None, None, None]

    gaussian.channels = 1
    gaussian.sigma_min, gaussian.sigma_max = 0.01, 50.0

    def wrong(x_t, t):
        return x_t[:, :1]

    number = 3
"""


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(dedent(MODELS))
    (tmp_path / "broken_models.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "raising_models.py").write_text("raise RuntimeError('no weights\\nhere')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("my_models", "broken_models", "raising_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_function_serves_as_a_denoiser() -> None:
    info = describe("module:my_models:zero")
    assert (info.channels, info.tile, info.multiple, info.alpha_bar) == (3, 256, 1, "linear")
    denoiser = load_denoiser("module:my_models:zero")
    assert denoiser.info == info
    assert torch.equal(
        denoiser(torch.ones(2, 3, 8, 8), torch.tensor([0, 9])), torch.zeros(2, 3, 8, 8)
    )


def test_a_class_is_described_without_being_built_and_built_when_loaded() -> None:
    info = describe("module:my_models:Scaled")
    models = sys.modules["my_models"]
    assert models.DRAWN == []
    assert (info.channels, info.tile, info.multiple, info.alpha_bar) == (5, 64, 4, "cosine")
    denoiser = load_denoiser("module:my_models:Scaled")
    out = denoiser(torch.ones(1, 5, 4, 4), torch.tensor([7]))
    assert torch.equal(out, torch.full((1, 5, 4, 4), 9.0))
    assert not out.requires_grad


def test_content_follows_the_source_and_the_named_weights(tmp_path: Path) -> None:
    before = describe("module:my_models:zero").content
    assert before != describe("module:my_models:Scaled").content
    (tmp_path / "my_models.py").write_text(dedent(MODELS) + "\n# changed\n")
    assert describe("module:my_models:zero").content != before


def test_a_sigma_denoiser_gives_the_exact_eps_of_its_prior() -> None:
    denoiser = load_denoiser("sigma:my_models:gaussian")
    alpha_bar = base_alpha_bar(denoiser.info.alpha_bar, denoiser.info.n_timesteps)
    sigma = np.sqrt(1 / alpha_bar - 1)
    np.testing.assert_allclose([sigma[0], sigma[-1]], [0.01, 50.0], rtol=1e-9)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 400, 999])
    a, s = (
        torch.from_numpy(np.sqrt(v[t.numpy()])).float()[:, None, None, None]
        for v in (alpha_bar, 1 - alpha_bar)
    )
    exact = x * s / (a**2 * 0.25 + s**2)
    torch.testing.assert_close(
        denoiser(x, t), exact, rtol=1e-4, atol=1e-4
    )  # eps is a difference divided by sigma


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("module:my_models", "not of the form package.module:name"),
        ("module:my-models:zero", "not of the form"),
        ("module:absent_models:zero", "no module named 'absent_models'; install it"),
        (
            "module:broken_models:zero",
            "importing broken_models failed: no module named 'not_installed_anywhere'",
        ),
        (
            "module:raising_models:zero",
            "importing raising_models failed: RuntimeError: no weights here",
        ),
        ("module:my_models:absent", "has no absent"),
        ("module:my_models:number", "cannot be called"),
        ("module:", "write module:package.module:name"),
        ("diffusers:", "write diffusers:FOLDER"),
        ("prior:", "write prior:PATH"),
        ("stable-diffusion:x", "known schemes"),
    ],
)
def test_a_bad_reference_is_refused_in_one_line(ref: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        describe(ref)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("channels", 0, "channels is 0"),
        ("alpha_bar", "steep", "'steep' is unknown"),
        ("alpha_bar", [0.5, 0.9], "falling"),
    ],
)
def test_a_senseless_attribute_is_refused(attribute: str, value: object, message: str) -> None:
    describe("module:my_models:zero")
    setattr(sys.modules["my_models"].zero, attribute, value)
    with pytest.raises(ValueError, match=message):
        describe("module:my_models:zero")


def test_an_answer_of_another_shape_is_refused() -> None:
    denoiser = load_denoiser("module:my_models:wrong")
    with pytest.raises(ValueError, match=r"answered \(1, 1, 4, 4\)"):
        denoiser(torch.ones(1, 3, 4, 4), torch.tensor([0]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_prior_file_of_any_number_of_channels_is_served(tmp_path: Path, channels: int) -> None:
    config = PriorConfig(image_channels=channels, channels=(8, 8), blocks=(1, 1), embedding=8)
    path = tmp_path / "prior.safetensors"
    save_file(LocalUNet(config).state_dict(), path, {"format": FORMAT, "config": config.to_json()})
    info = describe(f"prior:{path}")
    denoiser = load_denoiser(f"prior:{path}")
    assert denoiser.info == info
    assert (info.channels, info.multiple, info.local) == (channels, 4, True)
    assert denoiser(torch.ones(1, channels, 16, 16), torch.tensor([500])).shape == (
        1,
        channels,
        16,
        16,
    )


@pytest.mark.parametrize("ref", ["builtin", "analytic:", "module:my_models:zero"])
def test_a_class_is_refused_where_the_denoiser_knows_none(ref: str) -> None:
    with pytest.raises(ValueError, match="knows no classes"):
        describe(ref, label=3)


def test_every_scheme_is_named_in_the_error_of_an_unknown_one() -> None:
    with pytest.raises(ValueError, match="unknown denoiser") as caught:
        describe("nothing:x")
    assert all(scheme in str(caught.value) for scheme in SCHEMES)


def test_a_table_stands_for_a_named_schedule() -> None:
    table = tuple(linear_alpha_bar(100))
    np.testing.assert_array_equal(base_alpha_bar(table, 100), linear_alpha_bar(100))
    with pytest.raises(ValueError, match="no schedule of 99"):
        base_alpha_bar(table, 99)
