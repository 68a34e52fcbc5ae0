"""Say in which ways a network may be read (kernels/denoisers/denoising_trial.py tries them): every
scheme of denoisers has its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.denoiser_info import split_ref
from kernels.denoisers.denoiser import Denoiser, load_denoiser
from kernels.denoisers.denoising_trial import Candidates, Raw, Reading
from kernels.denoisers.guided_diffusion.answer_meaning import PREDICTIONS
from kernels.denoisers.guided_diffusion.checkpoints import (
    Checkpoint,
    GuidedDiffusion,
    load_guided_diffusion,
    open_denoiser,
)
from kernels.denoisers.guided_diffusion.unet import UNetConfig
from kernels.denoisers.user import UserDenoiser
from kernels.schedule import BASE_SCHEDULES, Float64, base_alpha_bar

Settings = tuple[tuple[str, Any], ...]

STATED = "stated"
USUAL_STEPS = 1000

NUMBERS_OF_HEADS = (1, 2, 4, 8)
HEAD_WIDTHS = (32, 64)
OTHER_ENDS = ((0.0, 1.0), (0.0, 255.0))
OTHER_SCALES = (4.0, 1 / 1000)
"""Of timesteps: of a network with 4,000 of them, and of one that takes them from 0 to 1."""


def candidates_of(ref: str, label: int | None, device: str = "cpu") -> Candidates:
    """Return the ways in which the network that a reference names may be read.

    Raises ValueError as loading it does.
    """
    scheme, path = split_ref(ref)
    if scheme == "guided-diffusion":
        return _of_checkpoint(path, label, device)
    denoiser = load_denoiser(ref, device, label)
    table = base_alpha_bar(denoiser.info.alpha_bar, denoiser.info.n_timesteps)
    if scheme == "sigma":
        return _of_sigma(denoiser, table)
    free = isinstance(denoiser, UserDenoiser)
    raw: Raw = denoiser.function if isinstance(denoiser, UserDenoiser) else denoiser
    return Candidates(
        stated=Reading(schedule=_name_of(table)),
        build=lambda _: raw,
        tables=_tables(table) if free else {_name_of(table): table},
        ends=OTHER_ENDS,
        timestep_scales=OTHER_SCALES if free else (),
    )


def _of_sigma(denoiser: Denoiser, table: Float64) -> Candidates:
    """Return the readings of D(z; sigma), which ought to answer with the picture."""
    assert isinstance(denoiser, UserDenoiser), "the scheme loads one"
    a = torch.from_numpy(np.sqrt(table)).float()
    sigma = torch.from_numpy(np.sqrt((1 - table) / table)).float()

    def raw(x_t: Tensor, t: Tensor) -> Tensor:
        answer: Tensor = denoiser.function(x_t / a[t][:, None, None, None], sigma[t])
        return answer

    return Candidates(
        stated=Reading(prediction="sample"),
        build=lambda _: raw,
        tables={STATED: table},
        ends=OTHER_ENDS,
    )


def _of_checkpoint(path: str, label: int | None, device: str) -> Candidates:
    """Return the readings of a guided-diffusion network, heads and their order among them."""
    given: dict[str, Any] = {} if label is None else {"label": label}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is assumed is just what is tried
        checkpoint = open_denoiser(path, given)
    architecture = checkpoint.architecture
    n = architecture.diffusion_steps
    scale = USUAL_STEPS / n if architecture.rescale_timesteps else 1.0

    def build(settings: Settings) -> Raw:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = load_guided_diffusion(path, device, **given, **dict(settings))
        return _bare(loaded, checkpoint)

    table = base_alpha_bar(architecture.noise_schedule, n)
    return Candidates(
        stated=Reading(
            settings=heads_of(architecture.config),
            schedule=architecture.noise_schedule,
            prediction=architecture.prediction_type,
            timestep_scale=scale,
        ),
        build=build,
        tables=_tables(table, n),
        settings=tuple(_other_heads(architecture.config)),
        ends=OTHER_ENDS,
        timestep_scales=(1.0, *OTHER_SCALES),
        predictions=PREDICTIONS,
    )


def _bare(loaded: GuidedDiffusion, checkpoint: Checkpoint) -> Raw:
    label = checkpoint.label

    def raw(x_t: Tensor, t: Tensor) -> Tensor:
        y = None if label is None else torch.full((len(x_t),), label, device=x_t.device)
        answer: Tensor = loaded.model(x_t, t, y)
        return answer[:, : loaded.info.channels]

    return raw


def heads_of(config: UNetConfig) -> Settings:
    """Return the settings that say a configuration's heads and the order of their channels."""
    return (
        ("num_head_channels", config.num_head_channels),
        ("num_heads", config.num_heads),
        ("use_new_attention_order", config.use_new_attention_order),
    )


def _other_heads(config: UNetConfig) -> Iterator[Settings]:
    """Yield heads and orders that the attended widths allow, each once by what it computes."""
    widths = [int(w) for i, w in enumerate(config.widths) if 2**i in config.attention_ds]
    widths.append(config.widths[-1])
    numbers = [(-1, heads) for heads in NUMBERS_OF_HEADS]
    numbers += [(channels, 1) for channels in HEAD_WIDTHS]
    seen = {_heads_at(widths, config.num_head_channels, config.num_heads)}
    ways = [(config.num_head_channels, config.num_heads)]
    for channels, heads in numbers:
        if any(width % (heads if channels == -1 else channels) for width in widths):
            continue
        at = _heads_at(widths, channels, heads)
        if at not in seen:
            seen.add(at)
            ways.append((channels, heads))
    for channels, heads in ways:
        single = set(_heads_at(widths, channels, heads)) == {1}
        for order in (False,) if single else (False, True):
            yield (
                ("num_head_channels", channels),
                ("num_heads", heads),
                ("use_new_attention_order", order),
            )


def _heads_at(widths: list[int], channels: int, heads: int) -> tuple[int, ...]:
    return tuple(heads if channels == -1 else width // channels for width in widths)


def _tables(stated: Float64, n: int = USUAL_STEPS) -> dict[str, Float64]:
    """Return the stated table, and the others that have a name."""
    return {_name_of(stated): stated} | {name: make(n) for name, make in BASE_SCHEDULES.items()}


def _name_of(table: Float64) -> str:
    """Return the name of a table that has one."""
    for name, make in BASE_SCHEDULES.items():
        if np.array_equal(make(len(table)), table):
            return name
    return STATED
