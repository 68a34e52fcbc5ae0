"""Classifier guidance: pull tiles towards a class by the gradient of log p(class | x_t), tile by
tile.

Form posterior adds variance_t scale gradient to the mean (Dhariwal and Nichol 2021, Algorithm 1);
form eps subtracts s scale gradient from eps before the clean estimate is made (their Algorithm 2),
so that constraints are not disturbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.denoisers.guided_diffusion.classifier import log_probability_gradient

UNGUIDED = -1
"""Label of a tile that is not guided."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guidance:
    """Guide the tiles of a batch; each has its own label, and they share scale and classifier."""

    gradient: Callable[..., Tensor]
    """(x_t (B, C, H, W), base timesteps (B,)), and labels (B,) if there are any, -> gradient of log
    p, like x_t.
    """
    scale: float = 1.0
    labels: Tensor | None = None
    """(B,) int64, one class per tile; `UNGUIDED` for none. Without labels every tile is guided
    alike.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise ValueError(
                f"guidance scale {self.scale} is no strength; give a number of at least 0"
            )
        labels = self.labels
        if labels is not None and (labels.dtype != torch.int64 or labels.ndim != 1):
            raise ValueError(
                f"labels are {labels.dtype} {tuple(labels.shape)}; give one int64 per tile"
            )

    def __call__(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Return scale times the gradient at x_t, (B, C, H, W); on the CPU tile by tile, as
        networks are.
        """
        if x.device.type != "cpu" or len(x) == 1:
            return self._of(x, timesteps, self.labels)
        gradients = []
        for i in range(len(x)):
            row = slice(i, i + 1)
            labels = None if self.labels is None else self.labels[row]
            gradients.append(self._of(x[row].clone(), timesteps[row], labels))
        return torch.cat(gradients)

    def _of(
        self,
        x: Tensor,
        timesteps: Tensor,
        labels: Tensor | None,
    ) -> Tensor:
        if labels is None:
            return self.scale * self.gradient(x, timesteps)
        gradient = self.gradient(x, timesteps, labels.clamp(min=0))
        guided = (labels >= 0)[:, None, None, None]
        return torch.where(guided, self.scale * gradient, 0.0)


@dataclass(frozen=True, slots=True)
class ClassifierGradient:
    """Differentiate a guided-diffusion classifier
    (`kernels.denoisers.guided_diffusion.classifier`); equal for the same network.
    """

    classifier: nn.Module

    def __call__(
        self,
        x: Tensor,
        timesteps: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Return the gradient of log p(labels | x_t), (B, C, H, W)."""
        return log_probability_gradient(self.classifier, x, timesteps, labels)


def classifier_guidance(
    classifier: nn.Module,
    labels: Sequence[int | None],
    classes: int,
    scale: float,
) -> Guidance:
    """Guide each tile by its class, None for no guidance; raise ValueError for a class that the
    classifier lacks.
    """
    numbers = []
    for label in labels:
        if label is not None and not 0 <= label < classes:
            raise ValueError(
                f"class {label} is unknown to the classifier; choose one in [0, {classes - 1}]"
            )
        numbers.append(UNGUIDED if label is None else label)
    return Guidance(
        gradient=ClassifierGradient(classifier),
        scale=scale,
        labels=torch.tensor(numbers, dtype=torch.int64),
    )
