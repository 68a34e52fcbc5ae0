"""Write the card that goes with a trained prior: what it was trained on, how, how well it does,
what it is not for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

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
    validation = read_record(metadata, "validation")
    domain = DomainStatistics(**read_record(metadata, "domain"))
    seen = read_record(metadata, "seen")
    started = f"from `{training['init']}`" if training["init"] else "from random weights"
    recipe = {
        key: value
        for key, value in training.items()
        if key not in ("config", "data", "init", "step")
    }
    figures = [
        f"| {round(sigma * 127.5)}/255 | {value:.2f} |"
        for sigma, value in zip(validation["sigmas"], validation["psnr"], strict=True)
    ]
    images = [
        f"| {item['name']} | {' x '.join(map(str, item['shape']))} {item['dtype']} | "
        f"`{item['content']}` |"
        for item in seen.get("images", [])
    ]
    table = (
        ["| image | bands x height x width | content |", "|---|---|---|", *images] if images else []
    )
    return "\n".join(
        [
            f"# Model card: {name}",
            "",
            f"A denoiser used as a diffusion prior (`--denoiser prior:{name}.safetensors`). "
            f"Licence: {metadata['license']}.",
            "",
            f"**Training data.** {metadata['trained_on']}. {seen.get('split', '')}".strip(),
            "",
            *table,
            "",
            f"**Recipe.** {started}, the moving average at step {training['step']}; "
            f"`{json.dumps(recipe)}`; network "
            f"`{metadata['config']}`. The same files, seed and machine give the same weights; "
            "across processors expect "
            "equal figures, not equal bytes.",
            "",
            f"**Validation**, {validation['pictures']} crops that were not trained on, denoised "
            "in one step:",
            "",
            "| noise | PSNR, dB |",
            "|---|---|",
            *figures,
            "",
            f"**Domain.** Residual with noise {domain.sigma} of [-1, 1]: {domain.mean:.3f} on "
            "average over "
            f"{domain.pictures} validation crops, {domain.largest:.3f} at most; above "
            f"{domain.limit:.3f} `restore` warns.",
            "",
            f"**Limits.** {LIMITS}",
            "",
        ]
    )
