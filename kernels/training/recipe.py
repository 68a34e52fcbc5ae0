"""State how a prior of the built-in family is trained: its specification, its examples, its
learning rate.

Batch k is a function of (specification, source of crops, k) alone: a run that was killed and
resumed sees the same examples as one that was not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kernels.denoisers.builtin import PriorConfig
from kernels.denoisers.predictor import SIGMA as PREDICTION_SIGMA
from kernels.operators.elementary import replicate
from kernels.training.sample_cache import Collection

# Weights of red, green and blue in a grey version of a crop, about the eye's.
GREY = np.array([0.3, 0.6, 0.1], np.float32)
# Enlargements that a predictor learns, and their shares of its steps.
PREDICTED_SCALES = (2, 4, 8)
PREDICTED_SHARES = (0.25, 0.6, 0.15)
# Errors of predictions are a tenth of those that noise leaves; so their squares do not vanish
# beside the weight decay.
PREDICTION_WEIGHT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """State everything that decides the weights, but for the processor's rounding."""

    config: PriorConfig = field(default_factory=PriorConfig)
    seed: int = 0
    init: str = ""
    """Prior file to start from; empty starts from random weights."""
    steps: int = 40_000
    batch: int = 16
    """Examples per step while crops are small; four times fewer once they are large, so that a step
    costs the same.
    """
    crop: int = 64
    """Side of the small crops, px; twice that in the last two fifths, to learn wider context."""
    learning_rate: float = 8e-4
    warmup: int = 200
    ema: float = 0.9985
    recolour: bool = True
    """Whether examples are also permuted, inverted, greyed and faded: right for a prior of
    everything, wrong for one of images whose colours mean something."""
    data: tuple[str, ...] = ()
    """Content hashes of the images of one's own; empty for synthetic ones."""
    image_side: int = 320
    shard_images: int = 32
    shards: int = 64
    objective: Literal["denoise", "predict"] = "denoise"
    """What the network learns: to remove noise, or to predict where super-resolution starts
    (kernels.denoisers.predictor).
    """
    steps_per_shard: int = 100
    """Steps until one more shard of images comes into use: drawing keeps pace with training."""

    def collection(self, directory: Path) -> Collection:
        """Name the synthetic images of this run."""
        return Collection(
            directory=directory,
            seed=self.seed,
            side=self.image_side,
            shard_images=self.shard_images,
            shards=self.shards,
        )


PRESETS = {
    "builtin": TrainingSpec(),
    # For a GPU: 4.4 M parameters, 8.8 MB.
    "builtin-large": TrainingSpec(
        config=PriorConfig(channels=(80, 112, 160), blocks=(3, 3, 2)),
        steps=60_000,
        batch=128,
        shards=256,
    ),
    # The companion of the built-in prior; begin from it: --init
    # kernels/weights/builtin.safetensors.
    "predictor": TrainingSpec(
        objective="predict",
        steps=10_000,
        learning_rate=4e-4,
        warmup=100,
        ema=0.998,
        steps_per_shard=25,
    ),
    # Two minutes on one CPU core: shows that training works, makes nothing worth keeping.
    "smoke": TrainingSpec(
        config=PriorConfig(channels=(16, 24, 32), blocks=(1, 1, 1)),
        steps=1500,
        batch=8,
        image_side=128,
        shards=8,
    ),
}
# One's own images: from the built-in prior a short training at a low rate is enough, from nothing
# it is not.
FINE_TUNING = TrainingSpec(
    steps=2_000,
    learning_rate=2e-4,
    warmup=100,
    ema=0.995,
    recolour=False,
)
FROM_SCRATCH = replace(
    FINE_TUNING,
    steps=20_000,
    learning_rate=8e-4,
    warmup=200,
    ema=0.9985,
)


class CropSource(Protocol):
    """Deliver clean pictures to train on, wherever they come from."""

    def crop(
        self,
        rng: np.random.Generator,
        visible: int,
        side: int,
    ) -> NDArray[Any]:
        """Return a random picture (C, side, side): uint8, or float32 in [-1, 1].

        rng decides which; visible counts up as training goes on, for a source that is still being
        made.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """Hold one step's examples: z = x0 + sigma n, or what pooling and enlarging left of x0."""

    x0: Tensor
    z: Tensor
    sigma: Tensor
    scale: int = 0
    """Side of the cells that x0 was pooled over, px; 0 for noise."""


def make_batch(spec: TrainingSpec, source: CropSource, step: int) -> TrainingBatch:
    """Return the examples of one step: x0 and z (B, C, s, s) in [-1, 1], sigma (B,)."""
    rng = np.random.default_rng([spec.seed, 1, step])
    large = step >= 0.6 * spec.steps
    side = 2 * spec.crop if large else spec.crop
    count = max(1, spec.batch // 4) if large else spec.batch
    visible = 1 + step // spec.steps_per_shard
    crops = [augment(rng, source.crop(rng, visible, side), spec.recolour) for _ in range(count)]
    x0 = torch.from_numpy(np.stack(crops))
    if spec.objective == "predict":
        scale = int(rng.choice(PREDICTED_SCALES, p=PREDICTED_SHARES))
        z = enlarged(x0, scale, rounded=bool(rng.random() < 0.5))
        return TrainingBatch(
            x0=x0,
            z=z,
            sigma=torch.full((count,), PREDICTION_SIGMA),
            scale=scale,
        )
    sigma = torch.from_numpy(draw_sigma(rng, count))
    noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
    return TrainingBatch(x0=x0, z=x0 + sigma[:, None, None, None] * noise, sigma=sigma)


def enlarged(x0: Tensor, scale: int, *, rounded: bool) -> Tensor:
    """Return pictures (B, C, H, W) in [-1, 1] pooled, rounded to 8 bit or not, and enlarged
    bicubically again.
    """
    y = F.avg_pool2d(x0, scale)
    if rounded:
        y = ((y + 1) * 127.5).round() / 127.5 - 1
    return F.interpolate(y, scale_factor=scale, mode="bicubic", align_corners=False)


def undetermined(error: Tensor, scale: int) -> Tensor:
    """Return the part of an error (B, C, H, W) that cells of scale x scale px do not measure: the
    rest is mended anyway.
    """
    return error - replicate(F.avg_pool2d(error, scale), scale)


def draw_sigma(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Draw noise levels: log-normal about those that decide detail, one in five log-uniform over
    the whole schedule.
    """
    log_sigma = rng.normal(-1.7, 1.4, count)
    spread = rng.random(count) < 0.2
    log_sigma[spread] = rng.uniform(math.log(0.005), math.log(160), int(spread.sum()))
    return np.exp(log_sigma).clip(0.004, 160).astype(np.float32)


def to_unit(picture: NDArray[Any]) -> NDArray[np.float32]:
    """Return a picture as float32 in [-1, 1]; uint8 is taken from its full range."""
    return picture.astype(np.float32) / 127.5 - 1 if picture.dtype == np.uint8 else picture


def augment(
    rng: np.random.Generator, crop: NDArray[Any], recolour: bool = True
) -> NDArray[np.float32]:
    """Turn, mirror and (of three channels) recolour a crop (C, s, s); return float32 in [-1, 1]."""
    x = to_unit(np.rot90(crop, int(rng.integers(4)), (1, 2)))
    if rng.random() < 0.5:
        x = x[:, :, ::-1]
    return np.ascontiguousarray(_recoloured(rng, x) if recolour else x, dtype=np.float32)


def _recoloured(rng: np.random.Generator, x: NDArray[np.float32]) -> NDArray[np.float32]:
    if rng.random() < 0.3:
        x = x[rng.permutation(3)]
    if rng.random() < 0.15:
        x = -x
    if rng.random() < 0.15:  # grey, as many microscopes and scanners are
        x = np.repeat(np.tensordot(GREY, x, 1)[None], 3, 0)
    if rng.random() < 0.3:
        gain = rng.uniform(0.4, 1.0)
        x = x * np.float32(gain) + np.float32(rng.uniform(-1, 1) * (1 - gain))
    return x


def learning_rate(spec: TrainingSpec, step: int) -> float:
    """Warm up linearly, then follow a cosine to zero at the last step."""
    warm = min(1.0, (step + 1) / spec.warmup)
    cosine = 1 + math.cos(math.pi * step / spec.steps)
    return spec.learning_rate * warm * 0.5 * cosine
