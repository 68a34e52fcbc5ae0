"""The guided-diffusion classifier: the encoder half of the U-Net with a pooling head, for
classifier guidance.

Source: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (NeurIPS 2021), section
4. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.denoisers.guided_diffusion.unet import (
    GroupNorm32,
    UNetConfig,
    build_encoder,
    build_middle,
    check_input,
    qkv_attention,
    time_embedding,
    timestep_embedding,
)

SPATIAL_HIDDEN = 2048
"""Width of the hidden layer of the spatial heads."""

POOLS = ("attention", "spatial", "adaptive", "spatial_v2")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(UNetConfig):
    """Describe a classifier: an encoder whose `out_channels` counts the classes."""

    pool: Literal["attention", "spatial", "adaptive", "spatial_v2"] = "attention"
    """Head: attends from the mean of the coarsest features, or averages those (adaptive); or reads
    the means of all blocks' features with two layers (spatial; spatial_v2 with a normalization).
    """

    @property
    def feature_size(self) -> int:
        """Give the side in pixels of the coarsest features at the training size."""
        return self.image_size // self.multiple

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> ClassifierConfig:
        """Read the published `classifier_*` flags, or the constructor's names; ValueError where one
        is missing.
        """
        renamed = {
            "num_channels": flags.get("classifier_width"),
            "num_res_blocks": flags.get("classifier_depth"),
            "attention_resolutions": flags.get("classifier_attention_resolutions"),
            "use_scale_shift_norm": flags.get("classifier_use_scale_shift_norm"),
            "resblock_updown": flags.get("classifier_resblock_updown"),
        }
        if "classifier_width" in flags:
            given = {name: value for name, value in renamed.items() if value is not None}
            trunk = {"image_size": flags.get("image_size"), "num_head_channels": 64} | given
            pool = flags.get("classifier_pool", "attention")
        else:
            trunk = dict(flags)
            pool = flags.get("pool", "attention")
        base = UNetConfig.from_flags(trunk)
        fields = {name: getattr(base, name) for name in UNetConfig.__dataclass_fields__}
        fields["out_channels"] = int(flags.get("out_channels", 1000))
        fields["num_classes"] = None
        return cls(**fields, pool=pool)


class AttentionPool(nn.Module):
    """Reduce features (B, C, S, S) to (B, classes) by attending from their mean over all
    positions.
    """

    def __init__(
        self,
        side: int,
        channels: int,
        heads: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(channels, side * side + 1))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1)  # token 0 is the mean
        x = x + self.positional_embedding[None].to(x.dtype)
        x = qkv_attention(self.qkv_proj(x), self.heads, new_order=True)
        scores: Tensor = self.c_proj(x)
        return scores[:, :, 0]


def _head(config: ClassifierConfig, features: int) -> nn.Sequential:
    """Return the layers that turn features into scores; features: number of all blocks' together.

    The names of its parameters are those of the published checkpoints.
    """
    width = config.widths[-1]
    classes = config.out_channels
    if config.pool == "attention":
        heads = width // config.num_head_channels
        pool = AttentionPool(config.feature_size, width, heads, classes)
        return nn.Sequential(GroupNorm32(width), nn.SiLU(), pool)
    if config.pool == "adaptive":
        scores = nn.Conv2d(width, classes, 1)
        return nn.Sequential(
            GroupNorm32(width), nn.SiLU(), nn.AdaptiveAvgPool2d(1), scores, nn.Flatten()
        )
    hidden = nn.Linear(features, SPATIAL_HIDDEN)
    last = nn.Linear(SPATIAL_HIDDEN, classes)
    if config.pool == "spatial":
        return nn.Sequential(hidden, nn.ReLU(), last)
    if config.pool == "spatial_v2":
        return nn.Sequential(hidden, GroupNorm32(SPATIAL_HIDDEN), nn.SiLU(), last)
    raise ValueError(f"classifier pool {config.pool!r} is unknown: use {', '.join(POOLS)}")


class ClassifierModel(nn.Module):
    """Classify a noisy image at a timestep."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = time_embedding(config)
        self.input_blocks, channels = build_encoder(config)
        self.middle_block = build_middle(config)
        self.out = _head(config, features=sum(channels) + config.widths[-1])

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Score x (B, C, H, W) in [-1, 1] plus noise at timesteps (B,): logits (B, classes)
        float32.

        Raises ValueError where the sides do not fit; the attention head needs exactly the training
        size.
        """
        check_input(self.config, x)
        size = self.config.image_size
        if self.config.pool == "attention" and x.shape[-2:] != (size, size):
            height, width = x.shape[-2:]
            raise ValueError(
                f"this classifier takes {size} x {size} pixels, got {height} x {width}"
            )
        features = timestep_embedding(timesteps, self.config.model_channels)
        emb = self.time_embed(features)
        h = x.to(next(self.input_blocks.parameters()).dtype)
        means = []
        for block in (*self.input_blocks, self.middle_block):
            h = block(h, emb)
            means.append(h.to(x.dtype).mean(dim=(2, 3)))
        if self.config.pool.startswith("spatial"):
            pooled = torch.cat(means, dim=-1)
        else:
            pooled = h.to(x.dtype)
        logits: Tensor = self.out(pooled)
        return logits


def log_probability_gradient(
    classifier: nn.Module,
    x: Tensor,
    timesteps: Tensor,
    y: Tensor,
) -> Tensor:
    """Differentiate log p(y | x_t) with respect to x_t: (B, C, H, W), one class y (B,) for each
    image.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        log_p = F.log_softmax(classifier(x, timesteps), dim=-1)
        chosen = log_p.gather(1, y[:, None]).sum()
        return torch.autograd.grad(chosen, x)[0]
