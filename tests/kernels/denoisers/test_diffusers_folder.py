"""Folders written by the diffusers library load, and agree with the library's own network and
schedulers.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.denoisers.denoiser import load_denoiser
from kernels.denoisers.denoiser_registry import describe
from kernels.schedule import base_alpha_bar
from tests.kernels.denoisers.diffusers_folders import alter, diffusers, network, refusal

SCHEDULERS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": np.linspace(1e-3, 3e-2, 50).tolist(), "num_train_timesteps": 50},
}


def write(path: Path, model: Any, scheduler: Any, *, safe: bool = True) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the library leaves its configuration files to the garbage collector
        diffusers.DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(
            path, safe_serialization=safe
        )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model", network(), diffusers.DDPMScheduler())


def same(ours: Tensor, theirs: Tensor) -> None:
    """Compare to the last bits only: weights mapped from a file lie at another alignment than drawn
    ones.
    """
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("safe", [True, False])
def test_a_saved_network_answers_as_the_library_does(
    tmp_path: Path, channels: int, safe: bool
) -> None:
    model = network(channels)
    path = write(tmp_path / "model", model, diffusers.DDPMScheduler(), safe=safe)
    denoiser = load_denoiser(f"diffusers:{path}")
    info = describe(f"diffusers:{path}")
    assert denoiser.info == info
    assert (info.channels, info.tile, info.multiple) == (channels, 16, 2)
    x = torch.randn(2, channels, 16, 24)
    t = torch.tensor([3, 700])
    with torch.no_grad():
        same(denoiser(x, t), model(x, t).sample)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
def test_the_schedule_is_the_schedulers_own(tmp_path: Path, name: str, kind: str) -> None:
    scheduler = getattr(diffusers, kind)(**SCHEDULERS[name])
    info = describe(f"diffusers:{write(tmp_path / 'model', network(), scheduler)}")
    table = base_alpha_bar(info.alpha_bar, info.n_timesteps)
    np.testing.assert_allclose(
        table, scheduler.alphas_cumprod.double().numpy(), rtol=2e-3 if name == "cosine" else 1e-4
    )


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_every_kind_of_prediction_gives_the_same_clean_estimate_as_the_library(
    tmp_path: Path, prediction: str
) -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False)
    model = network()
    denoiser = load_denoiser(f"diffusers:{write(tmp_path / 'model', model, scheduler)}")
    scheduler.set_timesteps(1000)
    x = torch.randn(1, 3, 16, 16)
    t = 300
    with torch.no_grad():
        theirs = scheduler.step(model(x, t).sample, t, x).pred_original_sample
        eps = denoiser(x, torch.tensor([t]))
    alpha_bar = base_alpha_bar(denoiser.info.alpha_bar)[t]
    ours: Tensor = (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-3, atol=1e-4)


def test_the_timestep_of_pure_noise_is_left_out(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    info = describe(f"diffusers:{write(tmp_path / 'model', network(), scheduler)}")
    assert info.n_timesteps == 999
    table = base_alpha_bar(info.alpha_bar, 999)
    np.testing.assert_allclose(
        table, scheduler.alphas_cumprod.double().numpy()[:-1], rtol=5e-3, atol=1e-7
    )


def test_a_learned_variance_is_dropped(tmp_path: Path) -> None:
    model = network(3, 6)
    path = write(tmp_path / "model", model, diffusers.DDPMScheduler(variance_type="learned_range"))
    x = torch.randn(1, 3, 16, 16)
    t = torch.tensor([5])
    with torch.no_grad():
        same(load_denoiser(f"diffusers:{path}")(x, t), model(x, t).sample[:, :3])


def test_a_class_conditional_network_needs_its_class(tmp_path: Path) -> None:
    model = network(num_class_embeds=4)
    path = write(tmp_path / "model", model, diffusers.DDPMScheduler())
    assert "give --class N from 0 to 3" in refusal(path)
    assert "4 was given" in refusal(path, label=4)
    x = torch.randn(1, 3, 16, 16)
    t = torch.tensor([5])
    with torch.no_grad():
        ours = load_denoiser(f"diffusers:{path}", label=2)(x, t)
        same(ours, model(x, t, class_labels=torch.tensor([2])).sample)
    assert describe(f"diffusers:{path}", 2).content != describe(f"diffusers:{path}", 3).content


def test_a_network_folder_with_its_scheduler_inside_is_enough(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(folder / "unet", alone)
    shutil.copy(folder / "scheduler" / "scheduler_config.json", alone)
    assert describe(f"diffusers:{alone}").content == describe(f"diffusers:{folder}").content


def test_attention_names_of_old_versions_are_understood(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    x = torch.randn(1, 3, 16, 16)
    t = torch.tensor([5])
    before = load_denoiser(f"diffusers:{folder}")(x, t)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(weights)
    for new, was in old.items():
        tensors = {key.replace(new, was): value.clone() for key, value in tensors.items()}
    save_file(tensors, weights)
    same(load_denoiser(f"diffusers:{folder}")(x, t), before)


def test_pickled_code_is_refused_unexecuted(folder: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
    assert "refused unexecuted" in refusal(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "flow"},
            "prediction_type 'flow' is unknown",
        ),
        (
            "scheduler/scheduler_config.json",
            {"beta_schedule": "laplace"},
            "beta_schedule 'laplace' is not supported",
        ),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "is a UNet2DConditionModel"),
        ("unet/config.json", {"time_embedding_type": "fourier"}, "embeds noise levels"),
        ("unet/config.json", {"out_channels": 5}, "takes 3 channels and gives 5"),
        ("unet/config.json", {"block_out_channels": [16, 48]}, "does not fit config.json"),
        (
            "unet/config.json",
            {"down_block_types": ["Nonsense", "DownBlock2D"]},
            "describes no network",
        ),
        ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "latent"),
    ],
)
def test_an_unsupported_setting_is_refused_by_name(
    folder: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    alter(folder / part, **changes)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("scheduler/scheduler_config.json", "has no scheduler"),
        ("unet/diffusion_pytorch_model.safetensors", "holds neither"),
        ("unet/config.json", "cannot be read as JSON"),
    ],
)
def test_a_missing_part_is_named(folder: Path, part: str, message: str) -> None:
    (folder / part).unlink()
    assert message in refusal(folder)


def test_a_missing_extra_is_named_with_its_install_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'gigarestore\[diffusers\]'"):
        describe(f"diffusers:{folder}")


def test_a_tile_that_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        load_denoiser(f"diffusers:{folder}")(torch.zeros(1, 3, 15, 16), torch.tensor([0]))
