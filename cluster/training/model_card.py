"""Write the card that goes with a trained prior: what it was trained on, how, how well it does,
what it is not for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernels.denoisers.prior_metadata import DomainStatistics, read_record
from storage import atomic_files

LIMITS = (
    "It knows edges, shading and the textures of its training images; it knows no objects. Detail "
    "that a measurement "
    "does not determine is a plausible completion, not an observation: do not diagnose from it. "
    "Images of another "
    "kind, scanner, stain or resolution are out of its domain; `restore` measures that and warns."
)


def write_card(path: Path, metadata: Mapping[str, str]) -> None:
    """Write the card of a prior file as Markdown, whole or not at all."""
    atomic_files.replace_text(path, card(path.stem, metadata), fsync=False)


def card(name: str, metadata: Mapping[str, str]) -> str:
    """Return the text of the card, from the metadata that the file itself carries."""
    training = read_record(metadata, "training")
    seen = read_record(metadata, "seen")
    paragraphs = [
        f"# Model card: {name}",
        f"A denoiser used as a diffusion prior (`--denoiser prior:{name}.safetensors`). "
        f"Licence: {metadata['license']}.",
        f"**Training data.** {metadata['trained_on']}. {seen.get('split', '')}".strip(),
        *_images_table(seen),
        _recipe(training, metadata["config"]),
        *_validation(read_record(metadata, "validation")),
        _domain(DomainStatistics(**read_record(metadata, "domain"))),
        f"**Limits.** {LIMITS}",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _images_table(seen: Mapping[str, Any]) -> list[str]:
    """Return a table of the training images; nothing where the file names none."""
    rows = ["| image | bands x height x width | content |", "|---|---|---|"]
    for image in seen.get("images", []):
        shape = " x ".join(map(str, image["shape"]))
        rows.append(f"| {image['name']} | {shape} {image['dtype']} | `{image['content']}` |")
    return ["\n".join(rows)] if len(rows) > 2 else []


def _recipe(training: Mapping[str, Any], config: str) -> str:
    apart = ("config", "data", "init", "step")
    recipe = {key: value for key, value in training.items() if key not in apart}
    started = f"from `{training['init']}`" if training["init"] else "from random weights"
    return (
        f"**Recipe.** {started}, the moving average at step {training['step']}; "
        f"`{json.dumps(recipe)}`; network `{config}`. The same files, seed and machine give the "
        "same weights; across processors expect equal figures, not equal bytes."
    )


def _validation(validation: Mapping[str, Any]) -> list[str]:
    rows = ["| noise | PSNR, dB |", "|---|---|"]
    for sigma, decibel in zip(validation["sigmas"], validation["psnr"], strict=True):
        rows.append(f"| {round(sigma * 127.5)}/255 | {decibel:.2f} |")
    text = (
        f"**Validation**, {validation['pictures']} crops that were not trained on, denoised in one "
        "step:"
    )
    return [text, "\n".join(rows)]


def _domain(domain: DomainStatistics) -> str:
    return (
        f"**Domain.** Residual with noise {domain.sigma} of [-1, 1]: {domain.mean:.3f} on average "
        f"over {domain.pictures} validation crops, {domain.largest:.3f} at most; above "
        f"{domain.limit:.3f} `restore` warns."
    )
