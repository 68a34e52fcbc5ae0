"""The published guided-diffusion models, by the flags of their releases.

Sources: the model card and flags of Dhariwal and Nichol (NeurIPS 2021); the FFHQ model of Chung et
al., "Diffusion Posterior Sampling" (ICLR 2023).
"""

from __future__ import annotations

from typing import Any

from kernels.denoisers.guided_diffusion.classifier import ClassifierConfig
from kernels.denoisers.guided_diffusion.unet import DEFAULT_CHANNEL_MULT, UNetConfig

DEFAULT_ATTENTION_PIXELS = (32, 16, 8)
HEAD_CHANNELS = 64


def _published(size: int, width: int, blocks: int, classes: int | None, **more: Any) -> UNetConfig:
    given: dict[str, Any] = {
        "num_head_channels": HEAD_CHANNELS,
        "attention_ds": tuple(size // r for r in DEFAULT_ATTENTION_PIXELS),
    }
    return UNetConfig(
        image_size=size,
        model_channels=width,
        num_res_blocks=blocks,
        channel_mult=DEFAULT_CHANNEL_MULT[size],
        num_classes=classes,
        num_heads=4,
        **(given | more),
    )


def _published_classifier(size: int, blocks: int) -> ClassifierConfig:
    return ClassifierConfig.from_flags(
        {
            "image_size": size,
            "classifier_width": 128,
            "classifier_depth": blocks,
            "classifier_attention_resolutions": "32,16,8",
            "classifier_use_scale_shift_norm": True,
            "classifier_resblock_updown": True,
        }
    )


PUBLISHED: dict[str, tuple[UNetConfig, str]] = {
    "64x64_diffusion": (_published(64, 192, 3, 1000, use_new_attention_order=True), "cosine"),
    "128x128_diffusion": (_published(128, 256, 2, 1000, num_head_channels=-1), "linear"),
    "256x256_diffusion": (_published(256, 256, 2, 1000), "linear"),
    "256x256_diffusion_uncond (or lsun)": (_published(256, 256, 2, None), "linear"),
    "512x512_diffusion": (_published(512, 256, 2, 1000), "linear"),
    "ffhq_10m": (_published(256, 128, 1, None, attention_ds=(16,)), "linear"),
    "64x64_classifier": (_published_classifier(64, 4), "cosine"),
    "128x128_classifier": (_published_classifier(128, 2), "linear"),
    "256x256_classifier": (_published_classifier(256, 2), "linear"),
    "512x512_classifier": (_published_classifier(512, 2), "linear"),
}
"""Published models with their noise schedules; the flags are those of the releases."""
