"""Infer the configuration of a guided-diffusion network from the shapes of its parameters.

Shapes tell widths, levels, residual blocks, where attention is, classes and learned variance. They
do not tell the number of heads, the channel layout of qkv, the training size or the noise schedule;
those come from the table of published models
(`kernels/denoisers/guided_diffusion/published_models.py`) or from the user, and an assumption is
made only together with a sentence that says so. Knows nothing of files
(`kernels/denoisers/guided_diffusion/checkpoints.py` does).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from kernels.denoisers.guided_diffusion.classifier import ClassifierConfig
from kernels.denoisers.guided_diffusion.published_models import HEAD_CHANNELS, PUBLISHED
from kernels.denoisers.guided_diffusion.unet import UNetConfig
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError
from kernels.schedule import BASE_SCHEDULES

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Hold a configuration together with how it was found."""

    config: UNetConfig
    name: str
    """Name of the published model with these shapes, or 'custom'."""
    noise_schedule: str = "linear"
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False
    """Whether the network was trained on timesteps scaled to 0..1000."""
    assumptions: tuple[str, ...] = ()
    """What was neither in the file, nor in the table of published models, nor said by the user."""


NOT_IN_SHAPES = {
    "image_size": int,
    "num_heads": int,
    "num_head_channels": int,
    "num_heads_upsample": int,
    "use_new_attention_order": bool,
    "noise_schedule": str,
    "diffusion_steps": int,
    "rescale_timesteps": bool,
}
"""Settings that a user may give, by their published flag names, and their types."""

PROCESS = ("noise_schedule", "diffusion_steps", "rescale_timesteps")
"""Those of them that belong to the diffusion, not to the network."""

IRRELEVANT = {
    "dropout",
    "use_checkpoint",
    "use_fp16",
    "classifier_use_fp16",
    "use_kl",
    "timestep_respacing",
    "rescale_learned_sigmas",
    "attention_resolutions",  # the attention blocks are seen
    "classifier_attention_resolutions",
    "predict_xstart",  # refused above where true
}
"""Published flags that change nothing about a loaded network in evaluation."""


def infer(shapes: Shapes, settings: Mapping[str, Any]) -> Architecture:
    """Find the architecture whose parameters have these shapes; `settings` are published flags that
    the user gave.

    Raises CheckpointError where the shapes are not of this family, or a setting is unknown or
    contradicts them.
    """
    seen = _visible(shapes, settings)
    match = next((n for n, (c, _) in PUBLISHED.items() if _same_shapes(c, seen)), None)
    _check_settings(seen, settings)
    if match is not None:
        config, schedule = PUBLISHED[match]
        known: dict[str, Any] = {f: getattr(config, f) for f in NOT_IN_SHAPES if hasattr(config, f)}
        known["noise_schedule"] = schedule
    else:
        known = _assumed(seen, shapes)
    if "num_heads" in settings and "num_head_channels" not in settings:
        known["num_head_channels"] = -1  # a number of heads given alone is meant to count
    said = {name: settings[name] for name in NOT_IN_SHAPES if name in settings}
    values = known | said
    run = {name: values.pop(name) for name in PROCESS if name in values}
    kind = ClassifierConfig if "pool" in seen else UNetConfig
    assumptions = () if match is not None else _assumptions(seen, values | run, said)
    return Architecture(
        config=kind(**seen, **values), name=match or "custom", assumptions=assumptions, **run
    )


def _visible(shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read from the shapes every field of the configuration that they determine."""
    try:
        levels, blocks = _layout(shapes, settings)
        model_channels = shapes["time_embed.0.weight"][1]
        widths = [
            shapes[f"input_blocks.{i * (blocks + 1) + 1}.0.out_layers.3.weight"][0]
            for i in range(levels)
        ]
        attends = [
            f"input_blocks.{i * (blocks + 1) + 1}.1.qkv.weight" in shapes for i in range(levels)
        ]
        width_1 = shapes["input_blocks.1.0.out_layers.3.weight"][0]
        seen: dict[str, Any] = {
            "in_channels": shapes["input_blocks.0.0.weight"][1],
            "model_channels": model_channels,
            "num_res_blocks": blocks,
            "attention_ds": tuple(2**i for i in range(levels) if attends[i]),
            "channel_mult": tuple(w / model_channels for w in widths),
            "num_classes": shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None,
            "use_scale_shift_norm": shapes["input_blocks.1.0.emb_layers.1.weight"][0]
            == 2 * width_1,
            "resblock_updown": not _op_blocks(shapes),
        }
        if is_denoiser(shapes):
            return seen | {"out_channels": shapes["out.2.weight"][0]}
        if "out.2.c_proj.weight" in shapes:
            return seen | {"out_channels": shapes["out.2.c_proj.weight"][0], "pool": "attention"}
        return seen | {"out_channels": shapes["out.2.weight"][0], "pool": "spatial"}
    except KeyError as error:
        raise CheckpointError(
            f"it lacks the parameter {error.args[0]!r} of every guided-diffusion network"
        ) from error
    except (IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            "its first parameters do not have the dimensions of a guided-diffusion network"
        ) from error


def is_denoiser(shapes: Mapping[str, Any]) -> bool:
    """Tell a denoiser, which has a decoder, from a classifier, which has none."""
    return any(key.startswith("output_blocks.") for key in shapes)


def _count(shapes: Shapes, prefix: str) -> int:
    return 1 + max((int(k.split(".")[1]) for k in shapes if k.startswith(prefix)), default=-1)


def _op_blocks(shapes: Shapes) -> set[int]:
    return {
        int(k.split(".")[1])
        for k in shapes
        if k.startswith("input_blocks.") and k.endswith(".0.op.weight")
    }


def _layout(shapes: Shapes, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Find (levels L, residual blocks R in each): L (R + 1) input blocks; the last of a level
    resamples to the next.
    """
    n = _count(shapes, "input_blocks.")
    said = settings.get("num_res_blocks", settings.get("classifier_depth"))
    fits = [(n // (r + 1), r) for r in range(1, n) if n % (r + 1) == 0 and _fits(shapes, n, r)]
    fits = [f for f in fits if said is None or f[1] == said] or fits
    if not fits:
        raise CheckpointError(
            f"its {n} input blocks do not follow the layout of a guided-diffusion network"
        )
    if len(fits) > 1:
        ways = ", ".join(f"{r} in {levels} levels" for levels, r in fits)
        raise CheckpointError(
            f"its {n} input blocks can be read as {ways}: say which with num_res_blocks"
        )
    return fits[0]


def _fits(shapes: Shapes, n: int, r: int) -> bool:
    """Tell whether r residual blocks per level agree with where the network resamples, attends and
    widens.
    """
    levels = n // (r + 1)
    downs = set(range(r + 1, n, r + 1))
    if is_denoiser(
        shapes
    ):  # the decoder's resampling layers are visible: a further layer after residual and attention
        keys = [k.split(".") for k in shapes if k.startswith("output_blocks.")]
        ups = {int(p[1]) for p in keys if p[2] != "0" and p[3] in ("in_layers", "conv")}
        return ups == {i * (r + 1) + r for i in range(levels - 1)}
    if ops := _op_blocks(shapes):
        return ops == downs
    rows = [shapes.get(f"input_blocks.{i}.0.in_layers.2.weight", (0, 0)) for i in range(n)]
    attends = [f"input_blocks.{i}.1.qkv.weight" in shapes for i in range(n)]
    plain = all(rows[i][0] == rows[i][1] and not attends[i] for i in downs)
    return plain and all(
        len({(rows[i][0], attends[i]) for i in range(start + 1, start + r + 1) if i not in downs})
        == 1
        for start in range(0, n, r + 1)
    )


def _same_shapes(config: UNetConfig, seen: Mapping[str, Any]) -> bool:
    return ("pool" in seen) == isinstance(config, ClassifierConfig) and all(
        getattr(config, name) == value for name, value in seen.items()
    )


def _assumed(seen: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Choose what shapes cannot tell as most published models have it; the user is told by
    `_assumptions`.
    """
    widths = [int(m * seen["model_channels"]) for m in seen["channel_mult"]]
    attended = [w for i, w in enumerate(widths) if 2**i in seen["attention_ds"]] + widths[-1:]
    by_channels = all(w % HEAD_CHANNELS == 0 for w in attended)
    heads = {"num_head_channels": HEAD_CHANNELS} if by_channels else {"num_heads": 1}
    return heads | {
        "image_size": _image_size(seen, shapes),
        "use_new_attention_order": False,
        "noise_schedule": "linear",
    }


def _image_size(seen: Mapping[str, Any], shapes: Shapes) -> int:
    """Read the training size from the attention pool's positions, or suppose that attention goes
    down to 8 pixels.
    """
    coarsest = 2 ** (len(seen["channel_mult"]) - 1)
    if "out.2.positional_embedding" in shapes:
        return int(math.isqrt(shapes["out.2.positional_embedding"][1] - 1) * coarsest)
    return int(8 * max(seen["attention_ds"], default=coarsest))


def _assumptions(
    seen: Mapping[str, Any], values: Mapping[str, Any], said: Mapping[str, Any]
) -> tuple[str, ...]:
    heads = "num_head_channels" if values.get("num_head_channels", -1) != -1 else "num_heads"
    told = set(said) | ({heads} if {"num_heads", "num_head_channels"} & set(said) else set())
    told |= {"image_size"} if seen.get("pool") == "attention" else set()
    told |= {"noise_schedule"} if "pool" in seen else set()
    names = ("image_size", heads, "use_new_attention_order", "noise_schedule")
    return tuple(f"{name} {values[name]}" for name in names if name not in told)


def _check_settings(seen: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a setting is unknown, unsupported, or contradicts the shapes."""
    if settings.get("predict_xstart"):
        raise CheckpointError(
            "predict_xstart is true: it predicts the image, and only noise-predicting networks are supported"
        )
    if seen["in_channels"] == seen["out_channels"] == 6 and "learn_sigma" not in settings:
        raise CheckpointError(
            "it takes 6 channels and gives 6, as an upsampler does, which is not a denoiser: "
            "for an image of 6 bands set learn_sigma false"
        )
    if settings.get("noise_schedule", "linear") not in BASE_SCHEDULES:
        raise CheckpointError(
            f"noise_schedule {settings['noise_schedule']!r} is unknown: use {', '.join(BASE_SCHEDULES)}"
        )
    facts = {name: seen[name] for name in seen} | {
        "num_channels": seen["model_channels"],
        "classifier_width": seen["model_channels"],
        "classifier_depth": seen["num_res_blocks"],
        "classifier_use_scale_shift_norm": seen["use_scale_shift_norm"],
        "classifier_resblock_updown": seen["resblock_updown"],
        "classifier_pool": seen.get("pool"),
        "class_cond": seen["num_classes"] is not None,
        "learn_sigma": seen["out_channels"] == 2 * seen["in_channels"],
    }
    for name, value in settings.items():
        if name == "channel_mult":
            value = [float(m) for m in value.split(",") if m] if isinstance(value, str) else value
            value = (
                value or facts[name]
            )  # empty means the default for the size, which the shapes show
        if name in facts and (tuple(value) if isinstance(value, list) else value) != facts[name]:
            raise CheckpointError(f"{name} is given as {value}, but its weights say {facts[name]}")
        if name not in facts and name not in NOT_IN_SHAPES and name not in IRRELEVANT:
            known = ", ".join(sorted(NOT_IN_SHAPES))
            raise CheckpointError(
                f"the setting {name!r} is unknown: use {known}, or another published model flag"
            )
        kind = NOT_IN_SHAPES.get(name)
        if kind is not None and type(value) is not kind:
            raise CheckpointError(
                f"{name} is given as {value!r}, which is not of type {kind.__name__}"
            )


def settings_text(architecture: Architecture) -> str:
    """Write every setting that changes the network's answers on one line, for a fingerprint."""
    config = architecture.config
    parts = [(f.name, getattr(config, f.name)) for f in fields(config) if f.name != "dropout"]
    parts += [(name, getattr(architecture, name)) for name in PROCESS]
    return " ".join(f"{name}={value}" for name, value in parts)
