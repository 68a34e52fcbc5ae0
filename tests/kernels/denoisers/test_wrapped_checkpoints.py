"""Networks are found under whatever wrappers and prefixes training left; of several the user
chooses; nothing is guessed.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.denoiser_info import absolute_ref
from kernels.denoisers.denoiser import load_denoiser
from kernels.denoisers.denoiser_registry import describe
from kernels.denoisers.guided_diffusion.checkpoints import (
    describe_guided_diffusion,
    load_guided_diffusion,
)
from kernels.denoisers.guided_diffusion.network_choice import choose_network
from tests.kernels.denoisers.small_networks import (
    SMALL,
    SMALL_SETTINGS,
    reference_eps,
    refusal,
    small_weights,
)

PREFIXES = ("module.", "model.", "ema_model.", "_orig_mod.", "denoise_fn.", "diffusion_model.")
PAIRS = ["".join(pair) for pair in itertools.permutations(PREFIXES, 2)]
X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
T = torch.tensor([300])


def stored(path: Path, holds: Any, settings: dict[str, Any] = SMALL_SETTINGS) -> Path:
    """Save whatever a file is to hold, with its settings beside it."""
    torch.save(holds, path)
    Path(f"{path}.json").write_text(json.dumps(settings))
    return path


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in weights.items()}


def assert_answers(path: Path | str, weights: dict[str, Tensor]) -> None:
    eps = load_guided_diffusion(path)(X, T)
    assert torch.equal(eps, reference_eps(SMALL, weights, X, T))


@pytest.mark.parametrize("prefix", [*PREFIXES, *PAIRS, "net.", "model._orig_mod.module."])
def test_prefixes_of_parameters_are_removed_in_any_order(tmp_path: Path, prefix: str) -> None:
    parameters = {"input_blocks.0.0.weight": torch.ones(3), "out.2.bias": torch.zeros(2)}
    path = tmp_path / "m.pt"
    for holds in (prefixed(prefix, parameters), {"state_dict": prefixed(prefix, parameters)}):
        torch.save(holds, path)
        network = choose_network(path, None)
        assert network.named is not None
        assert list(network.named) == list(parameters)


def test_a_prefixed_network_answers_as_the_plain_one(tmp_path: Path) -> None:
    weights = small_weights()
    path = stored(tmp_path / "m.pt", prefixed("module.model.", weights))
    assert_answers(path, weights)
    assert "#" not in describe_guided_diffusion(path).name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w, "hyper_parameters": {"lr": 1e-4}, "callbacks": {}, "epoch": 3},
        lambda w: {"checkpoint": {"state_dict": w}},
        lambda w: {"a": {"b": {"model": w}}, "step": 5, "optimizer": {"state": {0: w}}},
        lambda w: {"state_dict": w | {"betas": torch.ones(9), "loss.vgg.weight": torch.ones(3)}},
    ],
    ids=["lightning", "two deep", "three deep", "beside other parts"],
)
def test_wrappers_are_opened(tmp_path: Path, wrap: Any) -> None:
    weights = small_weights()
    assert_answers(stored(tmp_path / "m.pt", wrap(prefixed("model.", weights))), weights)


def test_of_several_networks_the_user_chooses(tmp_path: Path) -> None:
    weights = {"model": small_weights(1), "ema": small_weights(2)}
    path = stored(tmp_path / "m.pt", weights | {"step": 4})
    line = refusal(lambda: describe_guided_diffusion(path))
    assert "several networks (model, ema)" in line
    assert "m.pt#ema" in line
    for place, held in weights.items():
        assert_answers(f"{path}#{place}", held)
    assert "no network at 'emma': choose of model, ema" in refusal(
        lambda: load_guided_diffusion(f"{path}#emma")
    )


def test_networks_side_by_side_in_one_mapping_are_told_apart(tmp_path: Path) -> None:
    weights = small_weights(1)
    averaged = small_weights(2)
    both = prefixed("model.", weights) | prefixed("ema_model.module.", averaged)
    path = stored(tmp_path / "m.ckpt", {"state_dict": both})
    assert "(state_dict.model, state_dict.ema_model.module)" in refusal(
        lambda: describe_guided_diffusion(path)
    )
    assert_answers(f"{path}#state_dict.ema_model", averaged)
    assert "several networks at 'state_dict'" in refusal(
        lambda: describe_guided_diffusion(f"{path}#state_dict")
    )


def test_the_chosen_network_is_part_of_what_a_denoiser_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = small_weights()
    stored(tmp_path / "m.pt", {"model": weights, "ema": weights})
    monkeypatch.chdir(tmp_path)
    ref = "guided-diffusion:m.pt#ema"
    assert absolute_ref(ref) == f"guided-diffusion:{tmp_path}/m.pt#ema"
    info = describe(absolute_ref(ref))
    assert "m.pt#ema" in info.name
    assert info.content != describe("guided-diffusion:m.pt#model").content
    assert load_denoiser(ref).info == info


def test_a_file_whose_own_name_holds_the_sign_is_read(tmp_path: Path) -> None:
    weights = small_weights()
    assert_answers(stored(tmp_path / "run#3.pt", weights), weights)


@pytest.mark.parametrize("latent", ["first_stage_model.conv_in.weight", "scale_factor"])
def test_a_latent_model_is_refused(tmp_path: Path, latent: str) -> None:
    held = prefixed("model.diffusion_model.", small_weights()) | {latent: torch.ones(3)}
    assert "latent diffusion model" in refusal(
        lambda: describe_guided_diffusion(stored(tmp_path / "m.pt", {"state_dict": held}))
    )


def test_a_list_of_averages_takes_its_names_from_the_network_beside_it(tmp_path: Path) -> None:
    averaged = small_weights(2)
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": list(averaged.values())}
    path = stored(tmp_path / "m.pt", {"model": prefixed("module.", small_weights(1)), "ema": ema})
    assert "(model.module, ema.shadow_params)" in refusal(lambda: describe_guided_diffusion(path))
    assert_answers(f"{path}#ema", averaged)


@pytest.mark.parametrize("form", ["in the settings", "json", "lines"])
def test_a_list_alone_takes_its_names_from_the_user(tmp_path: Path, form: str) -> None:
    weights = small_weights()
    names: Any = list(weights)
    if form == "json":
        (tmp_path / "names").write_text(json.dumps(names))
    if form == "lines":
        (tmp_path / "names").write_text("\n".join(names))
    if form != "in the settings":
        names = "names"
    settings = SMALL_SETTINGS | {"parameter_names": names}
    assert_answers(stored(tmp_path / "m.pt", list(weights.values()), settings), weights)


def test_a_list_takes_its_names_from_flags_whose_network_has_just_these_shapes(
    tmp_path: Path,
) -> None:
    weights = small_weights()
    flags = SMALL_SETTINGS | {
        "num_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": "1,2",
        "attention_resolutions": "16",
        "learn_sigma": True,
    }
    assert_answers(stored(tmp_path / "m.pt", list(weights.values()), flags), weights)
    wrong = stored(tmp_path / "m.pt", list(weights.values()), flags | {"channel_mult": "1,1"})
    assert "give parameter_names" in refusal(lambda: describe_guided_diffusion(wrong))


def test_a_list_that_nothing_names_says_what_to_give(tmp_path: Path) -> None:
    weights = small_weights()
    path = stored(tmp_path / "m.pt", list(weights.values()))
    line = refusal(lambda: describe_guided_diffusion(path))
    assert f"lists {len(weights)} parameters without their names: give parameter_names" in line
    assert "m.pt.json" in line
    few = SMALL_SETTINGS | {"parameter_names": list(weights)[1:]}
    assert f"there are {len(weights) - 1} names" in refusal(
        lambda: describe_guided_diffusion(stored(path, list(weights.values()), few))
    )


def test_names_are_part_of_what_a_listed_network_is(tmp_path: Path) -> None:
    weights = small_weights()
    names = list(weights)
    i, j = names.index("out.0.weight"), names.index("out.0.bias")
    swapped = list(names)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    contents = {
        describe_guided_diffusion(
            stored(
                tmp_path / "m.pt",
                list(weights.values()),
                SMALL_SETTINGS | {"parameter_names": order},
            )
        ).content
        for order in (names, swapped)
    }
    assert len(contents) == 2


def test_an_untrained_network_is_refused(tmp_path: Path) -> None:
    weights = small_weights()
    weights["out.2.weight"].zero_()
    path = stored(tmp_path / "m.pt", weights)
    assert "untrained: its output layer out.2.weight is all zeros" in refusal(
        lambda: describe_guided_diffusion(path)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["out.2.bias", "time_embed.0.weight"])
def test_weights_that_are_not_finite_are_refused_when_described(
    tmp_path: Path, name: str, value: float
) -> None:
    weights = small_weights()
    weights[name].view(-1)[0] = value
    path = stored(tmp_path / "m.pt", weights)
    assert f"{name} holds NaN or infinity" in refusal(lambda: describe_guided_diffusion(path))


def test_one_such_value_deep_in_a_large_parameter_is_refused_when_loaded(tmp_path: Path) -> None:
    weights = small_weights()
    weights["middle_block.0.in_layers.2.weight"].view(-1)[30_000] = float("nan")
    path = stored(tmp_path / "m.pt", weights)
    assert "middle_block.0.in_layers.2.weight holds NaN" in refusal(
        lambda: load_guided_diffusion(path)
    )
