"""Train the generative priors of the tests: `python -m tests.priors.train discs|rings FILE`.

About 25 minutes of one core each. Small networks of the guided-diffusion family, tiles of 32 px,
one channel; `discs` has global attention, `rings` none. Nothing enters but pictures that
`tests.priors.pictures` draws, at full size, halved and quartered. The same machine makes the same
bytes.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from kernels.denoisers.guided_diffusion.unet import UNetConfig, UNetModel
from tests.priors import pictures

STEPS = 3000
BATCH = 16
SIDE = 32
LEARNING_RATE = 1.5e-3
AVERAGED = 0.998
# Reductions of the drawn pictures, and how often each is seen.
REDUCTIONS = {1: 0.5, 2: 0.3, 4: 0.2}
ATTENTION = {"discs": (2, 4), "rings": ()}
# What the shapes of the weights do not tell.
SETTINGS = {
    "image_size": SIDE,
    "num_heads": 2,
    "use_new_attention_order": False,
    "noise_schedule": "linear",
}


def drawn(family):
    """Return the pictures of a family."""
    if family == "discs":
        return [pictures.discs(512, seed, smallest=2.0) for seed in range(24)]
    return [pictures.rings(512, seed) for seed in range(60)]


def network(family):
    """Return an untrained network whose residual branches begin at zero."""
    torch.manual_seed(0)
    config = UNetConfig(
        image_size=SIDE,
        in_channels=1,
        model_channels=32,
        out_channels=1,
        num_res_blocks=1,
        attention_ds=ATTENTION[family],
        channel_mult=(1, 1, 1),
        num_heads=2,
    )
    model = UNetModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("out_layers.3.weight", "proj_out.weight")) or name == "out.2.weight":
            nn.init.zeros_(parameter)
    return model


def crops(levels, rng, family):
    """Return a batch (BATCH, 1, SIDE, SIDE) of turned, mirrored and (discs) inverted crops."""
    batch = []
    for _ in range(BATCH):
        level = levels[rng.choice(len(levels), p=tuple(REDUCTIONS.values()))]
        picture = level[rng.integers(len(level))]
        y, x = rng.integers(0, len(picture) - SIDE + 1, 2)
        crop = picture[y : y + SIDE, x : x + SIDE]
        symmetry = rng.integers(8)
        crop = np.rot90(crop, symmetry % 4)
        if symmetry > 3:
            crop = crop[::-1]
        if family == "discs" and rng.random() < 0.5:
            crop = -crop
        batch.append(np.ascontiguousarray(crop))
    return torch.from_numpy(np.stack(batch))[:, None]


def train(family, steps=STEPS):
    """Return the averaged weights after so many steps."""
    model = network(family)
    pool = drawn(family)
    levels = [[pictures.reduced(picture, factor) for picture in pool] for factor in REDUCTIONS]
    rng = np.random.default_rng(0)
    alpha_bar = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))).float()
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0)
    for step in range(steps):
        x0 = crops(levels, rng, family)
        t = torch.from_numpy(rng.integers(0, 1000, BATCH))
        eps = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
        level = alpha_bar[t][:, None, None, None]
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * eps
        loss = (model(x_t, t, None) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 100) * cosine
        optimizer.step()
        kept = min(AVERAGED, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            average[name].mul_(kept).add_(value, alpha=1 - kept)
        if step % 100 == 0:
            print(step, round(loss.item(), 4), flush=True)
    return average


def main(family, file):
    """Train a family's prior and write it in half precision, with its settings beside it."""
    torch.set_num_threads(1)
    weights = {name: value.half().contiguous() for name, value in train(family).items()}
    save_file(weights, file)
    Path(f"{file}.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
