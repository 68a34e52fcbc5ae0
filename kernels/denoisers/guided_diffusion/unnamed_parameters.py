"""Give names to the parameters of a list, as training code keeps moving averages (`shadow_params`).

Such a list is in the order of the network's parameters, and holds no names. They are taken from a
file of names that the user gives, from the one other network in the same file, or from a
configuration whose parameters have exactly these shapes in this order; never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.denoisers.guided_diffusion.network_choice import StoredNetwork
from kernels.denoisers.guided_diffusion.published_models import PUBLISHED
from kernels.denoisers.guided_diffusion.unet import UNetConfig, UNetModel
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError

NAMES = "parameter_names"
"""The setting that names the file of names, or holds them."""


def name_parameters(
    path: Path, network: StoredNetwork, settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the parameters of a listed network by name; `settings` are the user's.

    Raises CheckpointError in one line where no names are known, or they do not fit in number or
    shape.
    """
    shapes = [tuple(tensor.shape) for tensor in network.listed]
    if NAMES in settings:
        names = _given_names(path, settings[NAMES])
    elif network.order:
        names = list(network.order)
    else:
        names = _names_by_shape(path, shapes, settings)
    if len(names) != len(shapes):
        raise CheckpointError(
            f"{path} lists {len(shapes)} parameters, and there are {len(names)} names for them: "
            f"give the names in their order as {NAMES} in {path.name}.json"
        )
    return dict(zip(names, network.listed, strict=True))


def _given_names(path: Path, given: Any) -> list[str]:
    """Return the names that a setting holds, or the file beside the checkpoint that it names."""
    if isinstance(given, str):
        file = path.parent / given
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{NAMES} {file} cannot be read as text: {error}") from error
        try:
            given = json.loads(text)
        except ValueError:
            given = text.split()
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise CheckpointError(f"{NAMES} of {path} are no list of texts: give one name a line")
    if len(set(given)) != len(given):
        raise CheckpointError(f"{NAMES} of {path} name a parameter twice: give every name once")
    return given


def _names_by_shape(
    path: Path, shapes: Sequence[tuple[int, ...]], settings: Mapping[str, Any]
) -> list[str]:
    """Return the names of the one configuration whose parameters have these shapes in this
    order.
    """
    fits = {
        tuple(names)
        for config in _configurations(settings)
        if list((names := _parameter_shapes(config)).values()) == list(shapes)
    }
    if len(fits) == 1:
        return list(fits.pop())
    raise CheckpointError(
        f"{path} lists {len(shapes)} parameters without their names: give {NAMES} "
        "(the names in the order of the network's parameters, or a file with one a line) "
        f"or the flags of its training in {path.name}.json"
    )


def _configurations(settings: Mapping[str, Any]) -> list[UNetConfig]:
    """Return what the list may be: the user's flags where they are complete, or a published
    model.
    """
    try:
        return [UNetConfig.from_flags(settings)]
    except (ValueError, TypeError, AttributeError, ZeroDivisionError):
        return [config for config, _ in PUBLISHED.values() if type(config) is UNetConfig]


def _parameter_shapes(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = UNetModel(config)
    return {name: tuple(value.shape) for name, value in model.named_parameters()}
