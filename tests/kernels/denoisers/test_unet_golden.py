"""The networks reproduce the golden vectors and carry exactly the parameters of the published
checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kernels.denoisers.guided_diffusion.classifier import (
    ClassifierConfig,
    ClassifierModel,
    log_probability_gradient,
)
from kernels.denoisers.guided_diffusion.unet import (
    UNetConfig,
    UNetModel,
    timestep_embedding,
    torso_to,
)
from tests.golden_vectors import golden_weights
from tests.places import GOLDEN

UNETS = ("unet_a_uncond_legacyattn", "unet_c_classcond_newattn_res3")
CLASSIFIERS = ("cls_a_attentionpool", "cls_c_spatial")
PUBLISHED = sorted(p.stem for p in (GOLDEN / "keys").glob("*.json"))
TOLERANCE = 1e-4


def flags_of(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / "unet" / f"{name}.json").read_text())


def arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path) as data:
        return {k: torch.from_numpy(data[k]) for k in data}


def with_weights(model: nn.Module, name: str) -> nn.Module:
    model.load_state_dict(golden_weights(f"unet/{name}", model))
    return model.eval().requires_grad_(False)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("dim", [32, 33, 256])
def test_timestep_embedding_matches_golden(dim: int) -> None:
    golden = arrays(GOLDEN / "unet" / "timestep_embedding.npz")
    assert_close(timestep_embedding(golden["t"], dim), golden[f"e{dim}"])


@pytest.mark.parametrize("name", UNETS)
def test_unet_output_matches_golden_on_square_and_other_tiles(name: str) -> None:
    model = with_weights(UNetModel(UNetConfig.from_flags(flags_of(name))), name)
    io = arrays(GOLDEN / "unet" / f"{name}.io.npz")
    assert_close(model(io["x"], io["t"], io.get("y")), io["out"])
    label = io["y"][:1] if "y" in io else None
    assert_close(model(io["x_ns"], io["t_ns"], label), io["out_ns"])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_logits_and_input_gradient_match_golden(name: str) -> None:
    model = with_weights(ClassifierModel(ClassifierConfig.from_flags(flags_of(name))), name)
    io = arrays(GOLDEN / "unet" / f"{name}.io.npz")
    assert_close(model(io["x"], io["t"]), io["logits"])
    assert_close(log_probability_gradient(model, io["x"], io["t"], io["y"]), io["grad"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_architecture_has_exactly_the_published_parameters(name: str) -> None:
    published = json.loads((GOLDEN / "keys" / f"{name}.json").read_text())
    flags = published["flags"]
    expected = published["state_dict"]
    with torch.device("meta"):
        model: nn.Module
        if "classifier" in name:
            model = ClassifierModel(ClassifierConfig.from_flags(flags))
        else:
            model = UNetModel(UNetConfig.from_flags(flags))
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) == published["n_params"]


@pytest.mark.parametrize("name", UNETS)
def test_half_precision_torso_stays_near_float32(name: str) -> None:
    model = with_weights(UNetModel(UNetConfig.from_flags(flags_of(name))), name)
    torso_to(model, torch.bfloat16)
    dtypes = {
        k.split(".")[0]: v.dtype
        for k, v in model.state_dict().items()
        if v.ndim >= 2 and "emb" not in k
    }
    assert dtypes == {
        "input_blocks": torch.bfloat16,
        "middle_block": torch.bfloat16,
        "output_blocks": torch.bfloat16,
        "out": torch.float32,
    }
    io = arrays(GOLDEN / "unet" / f"{name}.io.npz")
    out = model(io["x"], io["t"], io.get("y"))
    assert out.dtype == torch.float32
    assert (out - io["out"]).square().mean().sqrt() <= 0.03 * io["out"].std()
