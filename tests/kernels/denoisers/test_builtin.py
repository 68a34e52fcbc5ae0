from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kernels.denoiser_info import BUILTIN_WEIGHTS
from kernels.denoisers.builtin import (
    FORMAT,
    SIGMA_DATA,
    BuiltinDenoiser,
    LocalUNet,
    PriorConfig,
    estimate_eps,
    estimate_x0,
    load_builtin,
    load_prior,
    network_output,
    network_target,
)
from kernels.denoisers.denoiser_registry import describe
from kernels.schedule import linear_alpha_bar

SMALL = PriorConfig(channels=(8, 12, 16), blocks=(1, 1, 1), embedding=16)


@pytest.fixture(scope="module")
def denoiser() -> BuiltinDenoiser:
    return load_builtin()


def picture(seed: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_net(config: PriorConfig = SMALL) -> LocalUNet:
    """Return a network whose every parameter matters: at initialisation head and modulations are
    zero.
    """
    net = LocalUNet(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return net


def test_description_without_torch_agrees_with_the_loaded_weights(
    denoiser: BuiltinDenoiser,
) -> None:
    assert denoiser.info == describe("builtin")


def test_weights_stay_below_ten_megabytes() -> None:
    assert BUILTIN_WEIGHTS.stat().st_size < 10_000_000


@pytest.mark.slow
def test_a_tile_with_enough_context_equals_the_whole(denoiser: BuiltinDenoiser) -> None:
    x = picture(0, 256, 272)
    t = torch.tensor([300])
    whole = denoiser(x, t)
    tile = denoiser(x[:, :, 8:248, 16:264].contiguous(), t)
    inner = slice(96, 144), slice(96, 152)
    ours = tile[:, :, inner[0], inner[1]]
    theirs = whole[:, :, 8 + 96 : 8 + 144, 16 + 96 : 16 + 152]
    # 96 px of context; what lies farther moves eps by 1e-5 (measured), against differences of order
    # 1 between pictures.
    assert (ours - theirs).abs().max() < 3e-5


def test_the_same_tile_gives_the_same_bits(denoiser: BuiltinDenoiser) -> None:
    x = picture(2, 64, 48)
    t = torch.tensor([120])
    assert torch.equal(denoiser(x, t), denoiser(x.clone(), t))


@pytest.mark.parametrize("t", [0, 60, 250, 999])
def test_eps_agrees_with_the_estimate_of_the_clean_image(denoiser: BuiltinDenoiser, t: int) -> None:
    alpha_bar = linear_alpha_bar()[t]
    a = np.sqrt(alpha_bar)
    sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
    x_t = (
        picture(3, 32, 40) * a
        + torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(4)) * sigma * a
    )
    level = torch.tensor([sigma], dtype=torch.float32)
    z = x_t / a
    x0 = estimate_x0(network_output(denoiser.net, z, level), z, level)
    from_eps = x_t / a - sigma * denoiser(x_t.float(), torch.tensor([t]))
    assert (from_eps - x0).abs().max() < 2e-6 * max(1.0, sigma)


def test_two_forms_of_eps_agree_and_the_target_inverts_the_estimate() -> None:
    x0 = picture(5, 16, 16).double()
    sigma = torch.tensor([0.3], dtype=torch.float64)
    z = x0 + 0.3 * torch.randn(
        x0.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64
    )
    output = network_target(x0, z, sigma)
    assert torch.allclose(estimate_x0(output, z, sigma), x0, atol=1e-12)
    assert torch.allclose(estimate_eps(output, z, sigma), (z - x0) / sigma, atol=1e-12)


def test_tiles_of_one_batch_may_be_at_different_timesteps(denoiser: BuiltinDenoiser) -> None:
    x = torch.cat([picture(7, 32, 32), picture(8, 32, 32)])
    together = denoiser(x, torch.tensor([100, 700]))
    for i, t in enumerate((100, 700)):
        assert (together[i] - denoiser(x[i : i + 1], torch.tensor([t]))[0]).abs().max() < 1e-5


def test_it_removes_noise_from_an_image_of_edges(denoiser: BuiltinDenoiser) -> None:
    clean = torch.full((1, 3, 64, 64), -0.4)
    clean[..., 20:50, 12:40] = 0.5
    t = 150
    alpha_bar = linear_alpha_bar()[t]
    a = float(np.sqrt(alpha_bar))
    s = float(np.sqrt(1 - alpha_bar))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))
    x_t = a * clean + s * noise
    x0 = (x_t - s * denoiser(x_t, torch.tensor([t]))) / a
    assert (x0 - clean).square().mean() < 0.02 * (x_t / a - clean).square().mean()


def test_an_untrained_network_is_the_linear_estimate() -> None:
    net = LocalUNet(SMALL)
    z = picture(10, 16, 16)
    sigma = torch.tensor([0.5])
    expected = z * SIGMA_DATA**2 / (0.5**2 + SIGMA_DATA**2)
    assert torch.allclose(estimate_x0(network_output(net, z, sigma), z, sigma), expected)


def test_gradients_reach_the_input(denoiser: BuiltinDenoiser) -> None:
    x = picture(11, 16, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(denoiser(x, torch.tensor([200])).sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("shape", "said"), [((1, 3, 60, 64), "multiples of 8"), ((1, 1, 64, 64), "channels")]
)
def test_unsuitable_tiles_are_refused(
    denoiser: BuiltinDenoiser, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        denoiser(torch.zeros(shape), torch.tensor([10]))


def save(path: Path, config: PriorConfig, form: str = FORMAT) -> None:
    state = {key: value.half().contiguous() for key, value in random_net().state_dict().items()}
    save_file(state, path, metadata={"format": form, "config": config.to_json()})


def test_a_prior_survives_the_round_trip_through_a_file(tmp_path: Path) -> None:
    save(tmp_path / "own.safetensors", SMALL)
    loaded = load_prior(tmp_path / "own.safetensors")
    net = random_net()
    assert loaded.info.name == "prior:own.safetensors"
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[key], value.half().float())


def test_files_that_are_no_priors_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    save(tmp_path / "foreign", SMALL, form="other")
    save(tmp_path / "misfit", PriorConfig(channels=(8, 12, 20), blocks=(1, 1, 1), embedding=16))
    for name, said in [
        ("absent", "cannot read"),
        ("text", "cannot read"),
        ("foreign", "format"),
        ("misfit", "fit"),
    ]:
        with pytest.raises(ValueError, match=said) as caught:
            load_prior(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"channels": 3, "colour": 1}'])
def test_a_malformed_configuration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="configuration"):
        PriorConfig.from_json(text)
