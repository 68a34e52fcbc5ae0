"""A guided-diffusion network of 16 px that denoises, trained for minutes on drawn rectangles.

    python -m tests.priors.small_guided

trains another like it and writes `small_guided.safetensors` beside this file. Its heads and their
order cannot be seen in the weights, but in what it leaves of the noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kernels.denoisers.guided_diffusion.unet import UNetConfig, UNetModel
from kernels.schedule import linear_alpha_bar

WEIGHTS = Path(__file__).parent / "small_guided.safetensors"
SIDE = 16
CONFIG = UNetConfig(
    image_size=SIDE,
    model_channels=32,
    out_channels=3,
    num_res_blocks=1,
    attention_ds=(1, 2),
    channel_mult=(1, 1),
    num_heads=2,
    use_new_attention_order=True,
    resblock_updown=False,
)
SETTINGS = {
    "image_size": SIDE,
    "num_heads": 2,
    "use_new_attention_order": True,
    "noise_schedule": "linear",
}
STEPS = 300
BATCH = 16
RATE = 2e-3


def draw(count: int, seed: int, side: int = SIDE) -> Tensor:
    """Draw pictures (count, 3, side, side) in [-1, 1]: rectangles on ramps."""
    generator = torch.Generator().manual_seed(seed)
    along = torch.linspace(-1, 1, side)
    pictures = torch.empty(count, 3, side, side)
    for picture in pictures:
        grey, right, down = torch.rand(3, 3, 1, 1, generator=generator) * 2 - 1
        picture[:] = 0.6 * grey + 0.4 * (right * along[None] + down * along[:, None])
        for _ in range(3):
            y, x, height, width, *colour = torch.rand(7, generator=generator).tolist()
            top = int(y * (side - 2))
            left = int(x * (side - 2))
            rows = slice(top, top + 2 + int(height * side * 0.7))
            cols = slice(left, left + 2 + int(width * side * 0.7))
            picture[:, rows, cols] = (2 * torch.tensor(colour) - 1)[:, None, None]
    return pictures.clamp(-1, 1)


def weights() -> dict[str, Tensor]:
    """Return the trained weights in float32."""
    return {name: value.float() for name, value in load_file(WEIGHTS).items()}


def train(steps: int = STEPS) -> UNetModel:
    """Train by predicting the noise (Ho et al. 2020, Algorithm 1)."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = UNetModel(CONFIG)
    pictures = draw(1024, seed=0)
    alpha_bar = torch.from_numpy(linear_alpha_bar(1000)).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 20) * (1 - step / steps)
        x0 = pictures[torch.randint(len(pictures), (BATCH,), generator=generator)]
        t = torch.randint(1000, (BATCH,), generator=generator)
        eps = torch.randn(x0.shape, generator=generator)
        kept = alpha_bar[t][:, None, None, None]
        answer = model(kept.sqrt() * x0 + (1 - kept).sqrt() * eps, t)
        loss = (answer - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


if __name__ == "__main__":
    save_file({name: value.half() for name, value in train().state_dict().items()}, WEIGHTS)
