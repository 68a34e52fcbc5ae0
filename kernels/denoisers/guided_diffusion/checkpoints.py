"""Load published guided-diffusion checkpoints: `.pt` without running any code in them, and
`.safetensors`.

A network is built without memory (meta device) and takes over the file's tensors, mapped from disk
where the format allows; so describing a model reads almost nothing, and several processes on one
machine share the pages.

What shapes do not tell (`kernels/denoisers/guided_diffusion/architecture.py`) can be said in a JSON
file beside the checkpoint, `PATH.json`, by the published flag names, and by keyword arguments,
which win. `label` there chooses the class of a class-conditional network. A file that holds several
networks is named with the place of one of them, `PATH#ema`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from kernels.denoiser_info import (
    UNET_VALUES_PER_WIDTH,
    DenoiserInfo,
    sampled_hash,
    split_settings,
)
from kernels.denoisers.guided_diffusion.answer_meaning import eps_of, mixing_weights
from kernels.denoisers.guided_diffusion.architecture import (
    Architecture,
    infer,
    is_denoiser,
    output_layer,
    settings_text,
)
from kernels.denoisers.guided_diffusion.classifier import ClassifierConfig, ClassifierModel
from kernels.denoisers.guided_diffusion.network_choice import choose_network, split_choice
from kernels.denoisers.guided_diffusion.trained_weights import (
    check_finite,
    check_finite_samples,
    check_output_layer,
)
from kernels.denoisers.guided_diffusion.unet import UNetModel
from kernels.denoisers.guided_diffusion.unnamed_parameters import NAMES, name_parameters
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError
from kernels.schedule import base_alpha_bar

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Hold a checked file: its tensors (not yet read from disk), the architecture, and the class to
    condition on.
    """

    path: Path
    tensors: dict[str, Tensor]
    architecture: Architecture
    label: int | None = None
    place: str | None = None
    """Which network of the file it is, where the user chose one."""
    listed: bool = False
    """Whether the file lists the parameters without their names."""
    read_with: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the reference itself says."""

    @property
    def title(self) -> str:
        """Return the file's name with the network's place in it."""
        return self.path.name if self.place is None else f"{self.path.name}#{self.place}"

    def content(self, *more: str) -> str:
        """Hash what decides the answers: a sample of the file, the settings, and whatever else is
        said to.
        """
        decides = [settings_text(self.architecture), *more]
        if self.place is not None:
            decides.append(f"network={self.place}")
        if self.listed:
            decides.append(f"names={','.join(self.tensors)}")
        return sampled_hash(self.path, " ".join(decides))


class GuidedDiffusion:
    """Predict the noise in x_t with a guided-diffusion U-Net (a `Denoiser`)."""

    def __init__(
        self,
        model: UNetModel,
        info: DenoiserInfo,
        *,
        label: int | None,
        timestep_scale: float,
        prediction: str = "epsilon",
    ) -> None:
        self.model = model
        self.info = info
        self.label = label
        self.timestep_scale = timestep_scale
        self.prediction = prediction
        self._weights = mixing_weights(base_alpha_bar(info.alpha_bar, info.n_timesteps))

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Estimate eps (B, C, H, W) float32 at x_t (B, C, H, W) and base timesteps t (B,); drop a
        learned variance.
        """
        y = None if self.label is None else torch.full_like(t, self.label)
        out: Tensor = self.model(x_t, t * self.timestep_scale, y)
        answer = out[:, : self.info.channels]
        if self.prediction == "epsilon":
            return answer
        a, s = self._weights[:, t][..., None, None, None]
        return eps_of(self.prediction, answer, x_t, a, s)

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device, in place."""
        self.model.to(device)
        self._weights = self._weights.to(device)
        return self


def describe_guided_diffusion(path: str | Path, **overrides: Any) -> DenoiserInfo:
    """Check a denoiser's checkpoint and describe it, reading no weights but a sample of bytes for
    the content hash.

    Raises CheckpointError (a ValueError) in one line for whatever `load_guided_diffusion` would
    refuse.
    """
    return _info(open_denoiser(path, overrides))


def load_guided_diffusion(
    path: str | Path, device: torch.device | str = "cpu", **overrides: Any
) -> GuidedDiffusion:
    """Load a denoiser; `overrides` are published flags that its shapes cannot tell, and `label`.

    Raises CheckpointError where the file is missing, damaged, unsafe, of another kind, or does not
    fit its network in any key or shape, and where a class-conditional network is given no label.
    Warns where the architecture is not a published one and something had to be assumed.
    """
    checkpoint = open_denoiser(path, overrides)
    architecture = checkpoint.architecture
    scale = 1000 / architecture.diffusion_steps if architecture.rescale_timesteps else 1
    with torch.device("meta"):
        model = UNetModel(architecture.config)
    return GuidedDiffusion(
        _fill(model, checkpoint),
        _info(checkpoint),
        label=checkpoint.label,
        timestep_scale=scale,
        prediction=architecture.prediction_type,
    ).to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierInfo:
    """Describe a classifier: what it accepts and tells apart."""

    name: str
    channels: int
    classes: int
    tile: int
    """Training size, px."""
    multiple: int
    """Both sides of a tile must be divisible by this, px."""
    fixed_tile: bool
    """Whether only tiles of exactly `tile` px are accepted."""
    n_timesteps: int
    content: str
    """Hash of the weights."""


def describe_classifier(path: str | Path) -> ClassifierInfo:
    """Check and describe a classifier, reading no more than a sample of its bytes; errors as of
    `load_classifier`.
    """
    checkpoint = _open_classifier(path, {})
    architecture = checkpoint.architecture
    config = cast(ClassifierConfig, architecture.config)
    return ClassifierInfo(
        name=f"classifier {architecture.name}, {checkpoint.title}",
        channels=config.in_channels,
        classes=config.out_channels,
        tile=config.image_size,
        multiple=config.multiple,
        fixed_tile=config.pool == "attention",
        n_timesteps=architecture.diffusion_steps,
        content=checkpoint.content(),
    )


def load_classifier(
    path: str | Path, device: torch.device | str = "cpu", **overrides: Any
) -> ClassifierModel:
    """Load a classifier for guidance; errors and warnings as for `load_guided_diffusion`."""
    checkpoint = _open_classifier(path, overrides)
    with torch.device("meta"):
        model = ClassifierModel(cast(ClassifierConfig, checkpoint.architecture.config))
    return _fill(model, checkpoint).to(device)


def _open_classifier(path: str | Path, overrides: Mapping[str, Any]) -> Checkpoint:
    checkpoint = _open(path, overrides)
    if is_denoiser(checkpoint.tensors):
        raise CheckpointError(
            f"{path} is a denoiser, not a classifier: a classifier has no output_blocks"
        )
    return checkpoint


def open_denoiser(path: str | Path, overrides: Mapping[str, Any]) -> Checkpoint:
    checkpoint = _open(path, overrides)
    config = checkpoint.architecture.config
    label = checkpoint.label
    if not is_denoiser(checkpoint.tensors):
        raise CheckpointError(
            f"{path} is a classifier ({config.out_channels} classes), not a denoiser: "
            "it can only guide one"
        )
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise CheckpointError(
            f"{path} takes {config.in_channels} channels and gives {config.out_channels}: "
            "an upsampler or another conditional network, not a denoiser, "
            "which gives as many, or twice as many with a learned variance"
        )
    if config.num_classes is None and label is not None:
        raise CheckpointError(f"{path} knows no classes, and class {label} was given: leave it out")
    if config.num_classes is not None and (label is None or not 0 <= label < config.num_classes):
        given = "none was given" if label is None else f"{label} was given"
        raise CheckpointError(
            f"{path} is class-conditional and needs a label 0..{config.num_classes - 1}; {given}: "
            f'give --class N, or write {{"label": N}} to {_sidecar(path).name} beside it'
        )
    return checkpoint


def _open(path: str | Path, overrides: Mapping[str, Any]) -> Checkpoint:
    """Read, infer and check: every key and shape of the file is that of the network to be built."""
    bare, read_with = split_settings(f"guided-diffusion:{path}")
    path, place = split_choice(bare.partition(":")[2])
    network = choose_network(path, place)
    settings = _sidecar_settings(path) | read_with | dict(overrides)
    label = settings.pop("label", None)
    if label is not None and type(label) is not int:
        raise CheckpointError(f"{path}: label is given as {label!r}, which is not a whole number")
    if network.named is None:
        tensors = name_parameters(path, network, settings)
    else:
        tensors = dict(network.named)
    settings.pop(NAMES, None)
    try:
        architecture = infer({key: tuple(v.shape) for key, v in tensors.items()}, settings)
        _check_parameters(tensors, _skeleton(architecture))
    except ValueError as error:
        raise CheckpointError(
            f"{path} cannot be loaded as a guided-diffusion network: {error}"
        ) from error
    check_output_layer(path, tensors[output_layer(tensors)], output_layer(tensors))
    check_finite_samples(path, tensors)
    if architecture.assumptions:
        said = ", ".join(architecture.assumptions)
        warnings.warn(
            f"{path} is not a published architecture; assumed {said}: "
            f"say otherwise in {_sidecar(path).name}",
            stacklevel=4,
        )
    return Checkpoint(
        path=path,
        tensors=tensors,
        architecture=architecture,
        label=label,
        place=network.place if place is not None else None,
        listed=network.named is None,
        read_with=read_with,
    )


def _sidecar(path: str | Path) -> Path:
    return Path(f"{path}.json")


def _sidecar_settings(path: Path) -> dict[str, Any]:
    sidecar = _sidecar(path)
    if not sidecar.exists():
        return {}
    try:
        settings = json.loads(sidecar.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{sidecar} is not readable as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"{sidecar} holds a {type(settings).__name__}, not an object of model flags"
        )
    return settings


def _skeleton(architecture: Architecture) -> nn.Module:
    """Build the network without any memory for its weights."""
    config = architecture.config
    if config.image_size < config.multiple or config.image_size % config.multiple:
        raise CheckpointError(
            f"image_size {config.image_size} is not a multiple of {config.multiple}, "
            "as its levels require"
        )
    with torch.device("meta"):
        return (
            ClassifierModel(config) if isinstance(config, ClassifierConfig) else UNetModel(config)
        )


def _check_parameters(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise CheckpointError naming the first parameter that is missing, superfluous, of another
    shape or not float.
    """
    expected = {key: tuple(v.shape) for key, v in model.state_dict().items()}
    wrong = [
        f"{key} is missing (expected shape {shape})"
        for key, shape in expected.items()
        if key not in tensors
    ]
    wrong += [f"{key} does not belong to it" for key in tensors if key not in expected]
    for key, value in tensors.items():
        if key in expected and tuple(value.shape) != expected[key]:
            wrong.append(f"{key} has shape {tuple(value.shape)}, expected {expected[key]}")
        elif not value.is_floating_point():
            wrong.append(f"{key} has dtype {value.dtype}, expected floating point")
    if wrong:
        raise CheckpointError(
            wrong[0] + (f" (and {len(wrong) - 1} more parameters differ)" if wrong[1:] else "")
        )


def _fill(model: M, checkpoint: Checkpoint) -> M:
    """Give the network the file's tensors themselves, not copies; other float types are converted
    to float32. CheckpointError where one of them is not finite.
    """
    check_finite(checkpoint.path, checkpoint.tensors)
    model.load_state_dict({key: v.float() for key, v in checkpoint.tensors.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _info(checkpoint: Checkpoint) -> DenoiserInfo:
    architecture = checkpoint.architecture
    config = checkpoint.architecture.config
    notes = [f"assumed {', '.join(architecture.assumptions)}"] if architecture.assumptions else []
    notes += [f"{name} {value}" for name, value in checkpoint.read_with.items()]
    notes += [f"class {checkpoint.label}"] if checkpoint.label is not None else []
    return DenoiserInfo(
        name=f"guided-diffusion {architecture.name}, {checkpoint.title}"
        + "".join(f"; {note}" for note in notes),
        channels=config.in_channels,
        tile=config.image_size,
        multiple=config.multiple,
        fixed_tile=False,
        alpha_bar=architecture.noise_schedule,
        assumed=tuple(phrase.partition(" ")[0] for phrase in architecture.assumptions),
        n_timesteps=architecture.diffusion_steps,
        weight_bytes=sum(4 * value.numel() for value in checkpoint.tensors.values()),
        values_per_pixel=UNET_VALUES_PER_WIDTH * config.model_channels,
        content=checkpoint.content(f"label={checkpoint.label}"),
    )
