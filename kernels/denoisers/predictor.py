"""Predict the picture that a super-resolution starts from: the mean of what may have been measured,
in one evaluation.

A warm start is the better the nearer it is to the answer, and a network trained for just that gives
a good one (Chung et al. 2022, "Come-Closer-Diffuse-Faster", section 4.2). Where a picture was
measured without noise by average pooling, the built-in prior has such a companion: a network of the
same shape, whose input is the measurement enlarged bicubically, and whose output has the least mean
squared error on drawn images. The sampler then needs a few steps instead of twenty, every one of
which holds A x = y as always. Reading the file as a prior would be wrong: its format says so.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from kernels.denoiser_info import PREDICTOR_WEIGHTS
from kernels.denoisers.builtin import load_prior
from kernels.denoisers.denoiser import Denoiser, evaluate
from kernels.denoisers.symmetry import symmetric
from kernels.presets import PREDICTION_ENSEMBLE
from kernels.schedule import linear_alpha_bar

FORMAT = "gigarestore-predictor-1"
# Base timestep whose noise level the network is told: it only fixes how much of its input passes
# unchanged.
TIMESTEP = 100
_ALPHA_BAR = float(linear_alpha_bar(1000)[TIMESTEP])
SIGMA = math.sqrt((1 - _ALPHA_BAR) / _ALPHA_BAR)


@lru_cache(maxsize=2)
def load_predictor(device: torch.device | str = "cpu") -> Denoiser:
    """Load the companion of the built-in prior, once per process and device; raises ValueError when
    its file is none.
    """
    companion = load_prior(PREDICTOR_WEIGHTS, device, name="predictor", kind=FORMAT)
    return symmetric(companion, PREDICTION_ENSEMBLE)


def predict(predictor: Denoiser, pictures: Tensor) -> Tensor:
    """Return predictions (B, C, H, W) in [-1, 1] for pictures (B, C, H, W) that were enlarged
    bicubically.

    On a CPU a prediction does not depend on the pictures beside it.
    """
    with torch.no_grad():
        timesteps = torch.full((len(pictures),), TIMESTEP, device=pictures.device)
        scaled = math.sqrt(_ALPHA_BAR) * pictures
        eps = evaluate(predictor, scaled, timesteps)
        predicted = pictures - SIGMA * eps
        return predicted.clamp(-1.0, 1.0)
