"""What is known of a denoiser before it is loaded: enough to plan a run, on a machine that need not have torch.

A reference names its scheme: `builtin`, `analytic:`, `guided-diffusion:PATH`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

SCHEMES = ("builtin:", "analytic:", "guided-diffusion:PATH")

# The weights in the repository (kernels/builtin.py loads them).
BUILTIN_WEIGHTS = Path(__file__).parent / "weights" / "builtin.safetensors"

# Names the constants of kernels/analytic.py; change it whenever one of them changes, since the pixels then do.
ANALYTIC_CONTENT = "stationary-inverse-square-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserInfo:
    """Describe a denoiser: what it accepts, the schedule that it was made for, and which weights it has."""

    name: str
    """The reference that loads it, shortened to what a person recognises."""
    channels: int = 3
    tile: int = 256
    """Default side of a tile, px."""
    multiple: int = 32
    """Both sides of a tile must be divisible by this, px."""
    fixed_tile: bool = False
    """Whether only tiles of exactly `tile` px are accepted."""
    alpha_bar: str = "linear"
    """Name of the base schedule, a key of `kernels.schedule.BASE_SCHEDULES`."""
    n_timesteps: int = 1000
    """Number of base timesteps."""
    content: str = ""
    """Hash of the weights (blake2b, hexadecimal); two denoisers with the same content make the same pixels."""


def describe(ref: str) -> DenoiserInfo:
    """Return the description of the denoiser that `ref` names, reading no more than its file's head or hash.

    torch is imported only for a checkpoint. Raises ValueError for an unknown scheme or a file that is not a checkpoint.
    """
    scheme, path = split_ref(ref)
    if scheme == "builtin":
        content = file_hash(BUILTIN_WEIGHTS)
        return DenoiserInfo(name="builtin", tile=256, multiple=8, alpha_bar="linear", content=content)
    if scheme == "analytic":
        return DenoiserInfo(name="analytic", tile=256, multiple=1, alpha_bar="linear", content=ANALYTIC_CONTENT)
    from kernels.checkpoints import describe_guided_diffusion  # imports torch

    return describe_guided_diffusion(path)


def split_ref(ref: str) -> tuple[str, str]:
    """Split a reference into (scheme, path); raise ValueError naming the known schemes when it is none of them."""
    scheme, _, path = ref.partition(":")
    if scheme in ("builtin", "analytic"):
        if path:
            raise ValueError(f"denoiser {ref!r}: {scheme} takes no path; write {scheme}:")
        return scheme, ""
    if scheme == "guided-diffusion":
        if not path:
            raise ValueError(f"denoiser {ref!r} names no file; write guided-diffusion:PATH")
        return scheme, path
    raise ValueError(f"unknown denoiser {ref!r}; known schemes: {', '.join(SCHEMES)}")


def file_hash(path: Path) -> str:
    """Return the blake2b hash of a file (128 bit, hexadecimal); raise ValueError when it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.blake2b(digest_size=16)
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ValueError(f"weights {path} cannot be read ({error.strerror}); check the path") from error
    return digest.hexdigest()
