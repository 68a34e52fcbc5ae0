"""A small UNet2DModel with drawn weights, written as the diffusers library writes its folders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.denoisers.denoiser import Denoiser, load_denoiser
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError
from kernels.schedule import base_alpha_bar

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")


def network(channels: int = 3, out: int | None = None, **more: Any) -> Any:
    """Return a network of 16 px."""
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=out or channels,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **more,
    ).eval()


def write_parts(path: Path, model: Any, scheduler: Any, **how: Any) -> Path:
    """Write network and scheduler beside each other; return the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library leaves files to the garbage collector
        model.save_pretrained(path / "unet", **how)
        scheduler.save_pretrained(path / "scheduler")
    return path


def alter(path: Path, **changes: Any) -> None:
    """Change settings of a configuration."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(path: Path, label: int | None = None) -> str:
    """Return the one line with which a folder is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_denoiser(f"diffusers:{path}", label=label)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def clean_estimate(denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
    """Return x0 as the sampler makes it of eps."""
    with torch.no_grad():
        eps = denoiser(x, torch.tensor([t]))
    alpha_bar = base_alpha_bar(denoiser.info.alpha_bar, denoiser.info.n_timesteps)[t]
    estimate: Tensor = (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    return estimate.float()
