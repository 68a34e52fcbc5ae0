"""Refuse weights that no training left behind: an output layer of zeros, and what is not finite.

A network of this family begins with an output layer of zeros, so zeros there mean that nobody
trained it (or that another file was meant); it would answer the same to every picture. One NaN in
any weight makes every pixel NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from kernels.denoisers.guided_diffusion.weights_file import CheckpointError

SAMPLED = 4096
"""Values of a tensor that a description reads."""


def check_output_layer(what: object, weight: Tensor, name: str) -> None:
    """Raise CheckpointError where the weights of the last layer are all zero; `what` names the
    file.
    """
    if not bool(weight.any()):
        raise CheckpointError(
            f"{what} is untrained: its output layer {name} is all zeros, "
            "so it would answer every picture alike; give the weights after training"
        )


def check_finite(what: object, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError naming the first parameter that holds NaN or infinity; reads all."""
    _raise_first(what, tensors.items())


def check_finite_samples(what: object, tensors: Mapping[str, Tensor]) -> None:
    """Raise as `check_finite` does, but read only the first SAMPLED values of every parameter."""
    _raise_first(what, ((name, value.flatten()[:SAMPLED]) for name, value in tensors.items()))


def _raise_first(what: object, tensors: Iterable[tuple[str, Tensor]]) -> None:
    for name, value in tensors:
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{what} is damaged: {name} holds NaN or infinity, "
                "as after a diverged training; give an earlier checkpoint"
            )
