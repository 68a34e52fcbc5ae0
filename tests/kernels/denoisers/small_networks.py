"""A guided-diffusion network of 32 px with drawn weights, and what says in one line why not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kernels.denoisers.guided_diffusion.unet import UNetConfig, UNetModel
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError

SMALL = UNetConfig(
    image_size=32,
    model_channels=32,
    num_res_blocks=1,
    attention_ds=(2,),
    channel_mult=(1, 2),
    num_heads=2,
    use_new_attention_order=True,
)
SMALL_SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "num_heads": 2,
    "use_new_attention_order": True,
    "noise_schedule": "cosine",
}


def filled(model: nn.Module, seed: int = 7) -> dict[str, Tensor]:
    """Draw every parameter anew, so that no zero hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(v.shape, generator=generator) * 0.1 for k, v in model.state_dict().items()
    }


def small_weights(seed: int = 7) -> dict[str, Tensor]:
    """Return drawn weights of the small network."""
    with torch.device("meta"):
        model = UNetModel(SMALL)
    return filled(model, seed)


def reference_eps(config: UNetConfig, weights: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
    """Return what a network with these weights answers, without its learned variance."""
    model = UNetModel(config)
    model.load_state_dict(weights)
    with torch.no_grad():
        answer: Tensor = model.eval()(x, t)
    return answer[:, :3]


def refusal(call: Callable[[], Any]) -> str:
    """Return the one line with which a call refuses a checkpoint."""
    with pytest.raises(CheckpointError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


def forget_modules(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """Work in a folder whose modules are imported anew."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
