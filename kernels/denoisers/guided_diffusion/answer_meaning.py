"""What a network's answer to x_t = a x_0 + s eps means: the noise, the picture, or v = a eps - s
x_0 (Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022,
appendix D).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kernels.schedule import Float64

PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""By the names of the diffusers library."""


def eps_of(prediction: str, answer: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """Return the noise that an answer (B, C, H, W) says is in x_t; a and s broadcast with it."""
    if prediction == "sample":
        return (x_t - a * answer) / s
    if prediction == "v_prediction":
        return a * answer + s * x_t
    return answer


def picture_of(prediction: str, answer: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """Return the clean picture that an answer says is in x_t."""
    if prediction == "epsilon":
        return (x_t - s * answer) / a
    if prediction == "v_prediction":
        return a * x_t - s * answer
    return answer


def mixing_weights(alpha_bar: Float64) -> Tensor:
    """Return a and s of every base timestep, (2, n) float32."""
    weights = np.stack([np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)])
    return torch.from_numpy(weights).float()
