"""Hold what a denoiser's description is: its fields, the reference that names it, the hash of its
weights. Needs no torch.

A reference names its scheme:

    builtin                          the prior that ships with the software
    prior:PATH                       another prior of the same family (kernels/denoisers/builtin.py)
    analytic:                        an exact Gaussian prior
    guided-diffusion:PATH[#NETWORK]  .pt or .safetensors of Dhariwal and Nichol's networks; which of
                                     several in the file, by its keys joined by dots
    diffusers:FOLDER                 a UNet2DModel with its scheduler
    module:package.module:name       one's own (x_t, t) -> eps
    sigma:package.module:name        one's own D(z; sigma) -> x0, the form of EDM
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMES = (
    "builtin:",
    "prior:PATH",
    "analytic:",
    "guided-diffusion:PATH",
    "diffusers:FOLDER",
    "module:package.module:name",
    "sigma:package.module:name",
)

# A U-Net of this family keeps about so many times its width per pixel: its skip connections, and a
# few full-size maps.
UNET_VALUES_PER_WIDTH = 16

# The weights in the repository (kernels/denoisers/builtin.py loads them).
BUILTIN_WEIGHTS = Path(__file__).parent / "weights" / "builtin.safetensors"
# Its companion that predicts where super-resolution starts (kernels/denoisers/predictor.py).
PREDICTOR_WEIGHTS = Path(__file__).parent / "weights" / "predictor.safetensors"

# Names the constants of kernels/denoisers/analytic.py; change it whenever one of them changes,
# since the pixels then do.
ANALYTIC_CONTENT = "stationary-inverse-square-1"

# A file of gigabytes is not read twice just to name it: this many evenly spaced blocks stand for
# its content.
HASHED_BLOCKS = 64
HASHED_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserInfo:
    """Describe a denoiser: what it accepts, the schedule that it was made for, and which weights it
    has.
    """

    name: str
    """The reference that loads it, shortened to what a person recognises."""
    channels: int = 3
    tile: int = 256
    """Default side of a tile, px."""
    multiple: int = 32
    """Both sides of a tile must be divisible by this, px."""
    fixed_tile: bool = False
    """Whether only tiles of exactly `tile` px are accepted."""
    alpha_bar: str | tuple[float, ...] = "linear"
    """Name of the base schedule, a key of `kernels.schedule.BASE_SCHEDULES`, or its table
    (n_timesteps,).
    """
    n_timesteps: int = 1000
    """Number of base timesteps."""
    content: str = ""
    """Hash of the weights (blake2b, hexadecimal); two denoisers with the same content make the same
    pixels.
    """
    weight_bytes: int = 0
    """Memory of the parameters in float32, bytes; 0 where nobody says (one's own function)."""
    values_per_pixel: int = 160
    """float32 values alive per pixel of a tile in the sampler and the network at the worst moment
    of a step.
    """
    predicts: bool = False
    """Whether a network that predicts where super-resolution starts comes with it
    (kernels.denoisers.predictor).
    """
    differentiable: bool = True
    """Whether it is known that torch can differentiate it; one's own function may not be."""
    assumed: tuple[str, ...] = ()
    """Settings, by name, that nobody said and its weights do not show
    (orchestrator.planning.network_trial tries them).
    """
    local: bool = False
    """Whether it knows textures only and no objects, so that sampling heads for the average by
    default.
    """


def split_ref(ref: str) -> tuple[str, str]:
    """Split a reference into (scheme, path); raise ValueError naming the known schemes when it is
    none of them.
    """
    scheme, _, path = ref.partition(":")
    if scheme in ("builtin", "analytic"):
        if path:
            raise ValueError(f"denoiser {ref!r}: {scheme} takes no path; write {scheme}:")
        return scheme, ""
    usage = next((known for known in SCHEMES if known.startswith(f"{scheme}:")), None)
    if usage is not None:
        if not path:
            raise ValueError(f"denoiser {ref!r} names nothing; write {usage}")
        return scheme, path
    raise ValueError(f"unknown denoiser {ref!r}; known schemes: {', '.join(SCHEMES)}")


def absolute_ref(ref: str) -> str:
    """Return the reference with the path of its file or folder made absolute, so that it holds in
    every process.
    """
    scheme, path = split_ref(ref)
    if scheme in ("prior", "guided-diffusion", "diffusers"):
        return f"{scheme}:{Path(path).absolute()}"
    return ref


def split_settings(ref: str) -> tuple[str, dict[str, Any]]:
    """Split REF?NAME=VALUE&NAME=VALUE into the reference and settings of its checkpoint, which win
    over those in its JSON file; values are JSON. ValueError where they are malformed.
    """
    scheme, _, path = ref.partition(":")
    if scheme != "guided-diffusion" or "?" not in path or Path(path).exists():
        return ref, {}
    bare, _, query = ref.rpartition("?")
    settings = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            raise ValueError(
                f"denoiser {ref!r}: {part!r} is no setting; write NAME=VALUE, texts in quotes"
            ) from None
    return bare, settings


def with_settings(ref: str, settings: Mapping[str, Any]) -> str:
    """Return a reference with settings of its checkpoint, those that it has already replaced."""
    bare, given = split_settings(ref)
    said = {**given, **settings}
    query = "&".join(f"{name}={json.dumps(value)}" for name, value in sorted(said.items()))
    return f"{bare}?{query}" if query else bare


def file_hash(path: Path) -> str:
    """Return the blake2b hash of a file (128 bit, hexadecimal); raise ValueError when it cannot be
    read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.blake2b(digest_size=16)
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ValueError(
            f"weights {path} cannot be read ({error.strerror}); check the path"
        ) from error
    return digest.hexdigest()


def sampled_hash(path: Path, settings: str) -> str:
    """Hash the size of a file, evenly spaced blocks of it, and a text with whatever else decides
    the answers.
    """
    digest = hashlib.blake2b(digest_size=16)
    size = path.stat().st_size
    digest.update(f"{size} {settings}".encode())
    last = max(size - HASHED_BLOCK_BYTES, 0)
    offsets = {last * i // (HASHED_BLOCKS - 1) for i in range(HASHED_BLOCKS)}
    with path.open("rb") as file:
        for offset in sorted(offsets):
            file.seek(offset)
            digest.update(file.read(HASHED_BLOCK_BYTES))
    return digest.hexdigest()
