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

from kernels.denoisers.guided_diffusion.answer_meaning import PREDICTIONS
from kernels.denoisers.guided_diffusion.classifier import ClassifierConfig
from kernels.denoisers.guided_diffusion.published_models import HEAD_CHANNELS, PUBLISHED
from kernels.denoisers.guided_diffusion.unet import UNetConfig
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError
from kernels.schedule import BASE_SCHEDULES

EPSILON = PREDICTIONS[0]
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
    prediction_type: str = EPSILON
    """What its answer means, one of PREDICTIONS."""
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
    "prediction_type": str,
}
"""Settings that a user may give, by their published flag names, and their types."""

PROCESS = ("noise_schedule", "diffusion_steps", "rescale_timesteps", "prediction_type")
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
    "predict_xstart",  # said by prediction_type from here on
}
"""Published flags that change nothing about a loaded network in evaluation."""


def infer(shapes: Shapes, settings: Mapping[str, Any]) -> Architecture:
    """Find the architecture whose parameters have these shapes; `settings` are published flags that
    the user gave.

    Raises CheckpointError where the shapes are not of this family, or a setting is unknown or
    contradicts them.
    """
    settings = _with_prediction(settings)
    seen = _visible(shapes, settings)
    match = _published_name(seen)
    _check_settings(seen, settings)
    if match is None:
        known = _assumed(seen, shapes)
    else:
        known = _published_settings(match)
    if "num_heads" in settings and "num_head_channels" not in settings:
        known["num_head_channels"] = -1  # a number of heads given alone is meant to count

    said = {name: settings[name] for name in NOT_IN_SHAPES if name in settings}
    values = known | said
    process = {name: values.pop(name) for name in PROCESS if name in values}
    assumptions: tuple[str, ...] = ()
    if match is None:
        assumptions = _assumptions(seen, values | process, said)
    kind = ClassifierConfig if "pool" in seen else UNetConfig
    return Architecture(
        config=kind(**seen, **values),
        name=match or "custom",
        assumptions=assumptions,
        **process,
    )


def _with_prediction(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings with the published flag for networks that predict the picture under its
    one name; CheckpointError where both contradict, or the name is unknown.
    """
    said = settings.get("prediction_type", EPSILON)
    if said not in PREDICTIONS:
        raise CheckpointError(f"prediction_type {said!r} is unknown: use {', '.join(PREDICTIONS)}")
    if not settings.get("predict_xstart"):
        return settings
    if "prediction_type" in settings and said != "sample":
        raise CheckpointError(
            f"predict_xstart is true and prediction_type {said!r}: say one, true means 'sample'"
        )
    return {**settings, "prediction_type": "sample"}


def _published_name(seen: Mapping[str, Any]) -> str | None:
    """Return the name of the published model that looks like this; None where there is none."""
    for name, (config, _) in PUBLISHED.items():
        if _same_shapes(config, seen):
            return name
    return None


def _published_settings(name: str) -> dict[str, Any]:
    """Return what the table of published models says beyond shapes."""
    config, schedule = PUBLISHED[name]
    known = {field: getattr(config, field) for field in NOT_IN_SHAPES if hasattr(config, field)}
    known["noise_schedule"] = schedule
    return known


def _visible(shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read from the shapes every field of the configuration that they determine."""
    try:
        seen = _visible_trunk(shapes, settings)
        if is_denoiser(shapes):
            return seen | {"out_channels": shapes["out.2.weight"][0]}
        classes = shapes[output_layer(shapes)][0]
        return seen | {"out_channels": classes, "pool": _pool(shapes)}
    except KeyError as error:
        raise CheckpointError(
            f"it lacks the parameter {error.args[0]!r} of every guided-diffusion network"
        ) from error
    except (IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            "its first parameters do not have the dimensions of a guided-diffusion network"
        ) from error


def _visible_trunk(shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read from the shapes every field but those of the head."""
    levels, blocks = _layout(shapes, settings)
    model_channels = shapes["time_embed.0.weight"][1]
    first_blocks = [f"input_blocks.{level * (blocks + 1) + 1}" for level in range(levels)]
    widths = [shapes[f"{block}.0.out_layers.3.weight"][0] for block in first_blocks]
    attended = [
        2**level for level, block in enumerate(first_blocks) if f"{block}.1.qkv.weight" in shapes
    ]
    first_width = shapes["input_blocks.1.0.out_layers.3.weight"][0]
    embedded_width = shapes["input_blocks.1.0.emb_layers.1.weight"][0]
    classes = None
    if "label_emb.weight" in shapes:
        classes = shapes["label_emb.weight"][0]
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "model_channels": model_channels,
        "num_res_blocks": blocks,
        "attention_ds": tuple(attended),
        "channel_mult": tuple(width / model_channels for width in widths),
        "num_classes": classes,
        "use_scale_shift_norm": embedded_width == 2 * first_width,
        "resblock_updown": not _op_blocks(shapes),
    }


def is_denoiser(shapes: Mapping[str, Any]) -> bool:
    """Tell a denoiser, which has a decoder, from a classifier, which has none."""
    return any(key.startswith("output_blocks.") for key in shapes)


def output_layer(shapes: Mapping[str, Any]) -> str:
    """Return the name of the last layer's weights."""
    heads = ("out.2.c_proj.weight", "out.3.weight")
    return next((name for name in heads if name in shapes), "out.2.weight")


def _pool(shapes: Shapes) -> str:
    """Tell a classifier's head by its last layers."""
    if "out.2.c_proj.weight" in shapes:
        return "attention"
    if "out.3.weight" not in shapes:
        return "spatial"
    return "adaptive" if len(shapes["out.3.weight"]) == 4 else "spatial_v2"


def _count(shapes: Shapes, prefix: str) -> int:
    """Return how many blocks of a list there are."""
    numbers = [_block_number(key) for key in shapes if key.startswith(prefix)]
    return 1 + max(numbers, default=-1)


def _op_blocks(shapes: Shapes) -> set[int]:
    """Return the input blocks that halve by a convolution of their own."""
    inputs = [key for key in shapes if key.startswith("input_blocks.")]
    return {_block_number(key) for key in inputs if key.endswith(".0.op.weight")}


def _block_number(key: str) -> int:
    return int(key.split(".")[1])


def _layout(shapes: Shapes, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Find (levels L, residual blocks R in each): L (R + 1) input blocks; the last of a level
    resamples to the next.
    """
    n = _count(shapes, "input_blocks.")
    said = settings.get("num_res_blocks", settings.get("classifier_depth"))
    divisors = [r for r in range(1, n) if n % (r + 1) == 0]
    fits = [(n // (r + 1), r) for r in divisors if _fits(shapes, n, r)]
    if said is not None:
        fits = [(levels, r) for levels, r in fits if r == said] or fits
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
    if is_denoiser(shapes):
        expected = {level * (r + 1) + r for level in range(levels - 1)}
        return _up_blocks(shapes) == expected
    if ops := _op_blocks(shapes):
        return ops == downs

    # A classifier that halves by residual blocks: those neither widen nor attend, and the others of
    # a level are alike.
    widths = [shapes.get(f"input_blocks.{i}.0.in_layers.2.weight", (0, 0)) for i in range(n)]
    attends = [f"input_blocks.{i}.1.qkv.weight" in shapes for i in range(n)]
    for i in downs:
        if widths[i][0] != widths[i][1] or attends[i]:
            return False
    for start in range(0, n, r + 1):
        level = [i for i in range(start + 1, start + r + 1) if i not in downs]
        kinds = {(widths[i][0], attends[i]) for i in level}
        if len(kinds) != 1:
            return False
    return True


def _up_blocks(shapes: Shapes) -> set[int]:
    """Return the output blocks that double: they have a further layer after residual and
    attention.
    """
    ups = set()
    for key in shapes:
        if key.startswith("output_blocks."):
            parts = key.split(".")
            if parts[2] != "0" and parts[3] in ("in_layers", "conv"):
                ups.add(int(parts[1]))
    return ups


def _same_shapes(config: UNetConfig, seen: Mapping[str, Any]) -> bool:
    """Tell whether a configuration has all the fields that were seen."""
    classifies = "pool" in seen
    if classifies != isinstance(config, ClassifierConfig):
        return False
    return all(getattr(config, name) == value for name, value in seen.items())


def _assumed(seen: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Choose what shapes cannot tell as most published models have it; `_assumptions` says so to
    the user.
    """
    widths = [int(multiple * seen["model_channels"]) for multiple in seen["channel_mult"]]
    attended = [width for i, width in enumerate(widths) if 2**i in seen["attention_ds"]]
    attended.append(widths[-1])
    by_channels = all(width % HEAD_CHANNELS == 0 for width in attended)
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
        positions = shapes["out.2.positional_embedding"][1] - 1
        return int(math.isqrt(positions) * coarsest)
    return int(8 * max(seen["attention_ds"], default=coarsest))


def _assumptions(
    seen: Mapping[str, Any],
    values: Mapping[str, Any],
    said: Mapping[str, Any],
) -> tuple[str, ...]:
    """Return a phrase for every setting that neither the file nor the user gave."""
    heads = "num_heads"
    if values.get("num_head_channels", -1) != -1:
        heads = "num_head_channels"
    given = set(said)
    if {"num_heads", "num_head_channels"} & given:
        given.add(heads)
    if seen.get("pool") == "attention":
        given.add("image_size")  # its positions show it
    if "pool" in seen:
        given.add("noise_schedule")  # a classifier has none
    names = ("image_size", heads, "use_new_attention_order", "noise_schedule")
    return tuple(f"{name} {values[name]}" for name in names if name not in given)


def _check_settings(seen: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a setting is unknown, unsupported, or contradicts the shapes."""
    if seen["in_channels"] == seen["out_channels"] == 6 and "learn_sigma" not in settings:
        raise CheckpointError(
            "it takes 6 channels and gives 6, as an upsampler does, which is not a denoiser: "
            "for an image of 6 bands set learn_sigma false"
        )
    schedule = settings.get("noise_schedule", "linear")
    if schedule not in BASE_SCHEDULES:
        known = ", ".join(BASE_SCHEDULES)
        raise CheckpointError(f"noise_schedule {schedule!r} is unknown: use {known}")
    facts = _facts(seen)
    for name, value in settings.items():
        _check_setting(name, value, facts)


def _facts(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the shapes say under every published name of it."""
    return dict(seen) | {
        "num_channels": seen["model_channels"],
        "classifier_width": seen["model_channels"],
        "classifier_depth": seen["num_res_blocks"],
        "classifier_use_scale_shift_norm": seen["use_scale_shift_norm"],
        "classifier_resblock_updown": seen["resblock_updown"],
        "classifier_pool": seen.get("pool"),
        "class_cond": seen["num_classes"] is not None,
        "learn_sigma": seen["out_channels"] == 2 * seen["in_channels"],
    }


def _check_setting(name: str, value: Any, facts: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless one setting is known, of its type and true to the shapes."""
    if name == "channel_mult":
        if isinstance(value, str):
            value = [float(multiple) for multiple in value.split(",") if multiple]
        # Empty means the default for the size, which the shapes show.
        value = value or facts[name]
    if name in facts:
        comparable = tuple(value) if isinstance(value, list) else value
        if comparable != facts[name]:
            raise CheckpointError(f"{name} is given as {value}, but its weights say {facts[name]}")
    elif name not in NOT_IN_SHAPES and name not in IRRELEVANT:
        known = ", ".join(sorted(NOT_IN_SHAPES))
        raise CheckpointError(
            f"the setting {name!r} is unknown: use {known}, or another published model flag"
        )
    kind = NOT_IN_SHAPES.get(name)
    if kind is not None and type(value) is not kind:
        raise CheckpointError(f"{name} is given as {value!r}, which is not of type {kind.__name__}")


def settings_text(architecture: Architecture) -> str:
    """Write every setting that changes the network's answers on one line, for a fingerprint."""
    config = architecture.config
    names = [field.name for field in fields(config) if field.name != "dropout"]
    parts = [f"{name}={getattr(config, name)}" for name in names]
    usual = {"prediction_type": EPSILON}  # as it was before one could say it
    process = {name: getattr(architecture, name) for name in PROCESS}
    parts += [f"{name}={value}" for name, value in process.items() if usual.get(name) != value]
    return " ".join(parts)
