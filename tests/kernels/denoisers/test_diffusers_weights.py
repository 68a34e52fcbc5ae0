"""Weights in several files and of half precision are read; what is missing or useless is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kernels.denoisers.denoiser import load_denoiser
from kernels.denoisers.denoiser_registry import describe
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError
from tests.kernels.denoisers.diffusers_folders import diffusers, network, refusal, write_parts

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
T = torch.tensor([300])
SHARDS = {"max_shard_size": "20KB"}


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def answers_like(path: Path, model: Any) -> bool:
    with torch.no_grad():
        theirs = model(X, T).sample
    return torch.allclose(load_denoiser(f"diffusers:{path}")(X, T), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [{}, SHARDS], ids=["whole", "sharded"])
def test_weights_are_read_however_the_library_wrote_them(
    tmp_path: Path, model: Any, safe: bool, variant: str | None, shards: dict[str, str]
) -> None:
    path = write_parts(
        tmp_path,
        model,
        diffusers.DDPMScheduler(),
        safe_serialization=safe,
        variant=variant,
        **shards,
    )
    files = [file.name for file in (path / "unet").iterdir()]
    assert (len(files) > 3) == bool(shards)
    assert any("fp16" in name for name in files) == (variant is not None)
    assert answers_like(path, model)


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    half = network().half()
    path = write_parts(tmp_path, half, diffusers.DDPMScheduler(), variant="fp16")
    assert answers_like(path, half.float())
    parameters = sum(value.numel() for value in half.parameters())
    assert describe(f"diffusers:{path}").weight_bytes >= 4 * parameters


def test_weights_without_a_variant_are_preferred(tmp_path: Path, model: Any) -> None:
    path = write_parts(tmp_path, network(), diffusers.DDPMScheduler(), variant="fp16")
    zeros = {key: 0.5 * value for key, value in model.state_dict().items()}
    save_file(zeros, path / "unet/diffusion_pytorch_model.fp16.safetensors")
    write_parts(tmp_path, model, diffusers.DDPMScheduler())
    assert answers_like(path, model)


def test_several_variants_are_refused(tmp_path: Path, model: Any) -> None:
    for variant in ("fp16", "non_ema"):
        path = write_parts(tmp_path, model, diffusers.DDPMScheduler(), variant=variant)
    assert "several variants of its weights (fp16, non_ema)" in refusal(path)


def test_a_missing_shard_is_named(tmp_path: Path, model: Any) -> None:
    path = write_parts(tmp_path, model, diffusers.DDPMScheduler(), **SHARDS)
    shard = sorted((path / "unet").glob("*.safetensors"))[1]
    shard.unlink()
    assert f"lists {shard.name}, which is not beside it" in refusal(path)


def test_any_shard_is_part_of_what_a_denoiser_is(tmp_path: Path, model: Any) -> None:
    path = write_parts(tmp_path, model, diffusers.DDPMScheduler(), **SHARDS)
    before = describe(f"diffusers:{path}").content
    shard = sorted((path / "unet").glob("*.safetensors"))[-1]
    save_file({key: value + 1 for key, value in load_file(shard).items()}, shard)
    assert describe(f"diffusers:{path}").content != before


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("conv_out.weight", 0.0, "untrained: its output layer conv_out.weight is all zeros"),
        ("conv_in.weight", float("nan"), "conv_in.weight holds NaN"),
    ],
)
def test_useless_weights_are_refused_when_described(
    tmp_path: Path, model: Any, name: str, value: float, says: str
) -> None:
    path = write_parts(tmp_path, model, diffusers.DDPMScheduler())
    file = path / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name].fill_(value)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=says):
        describe(f"diffusers:{path}")
