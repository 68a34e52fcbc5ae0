"""Find and read the weights in a folder of the diffusers library: one file or several, of full or
half precision.

A folder may hold several sets of the same weights. Read is the first there is of: safetensors,
pickled `.bin` (only what needs no code to be run); each in one file before several that an index
lists, and without a variant's name (`fp16`) before the one variant that there is.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kernels.denoiser_info import sampled_hash
from kernels.denoisers.diffusers_scheduler import read_json
from kernels.denoisers.guided_diffusion.trained_weights import (
    check_finite_samples,
    check_output_layer,
)
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError, read_named_tensors

STEM = "diffusion_pytorch_model"
KINDS = ("safetensors", "bin")
OUTPUT_LAYER = "conv_out.weight"
HALF = ("fp16", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderWeights:
    """Hold the files of one set of weights."""

    folder: Path
    files: tuple[Path, ...]
    variant: str = ""

    def read(self) -> dict[str, Tensor]:
        """Read the parameters by name, mapped from disk where the format allows.

        Raises CheckpointError where a file cannot be read, a parameter is in two of them, the
        output layer is all zeros, or a sampled value is not finite.
        """
        tensors: dict[str, Tensor] = {}
        for file in self.files:
            more = read_named_tensors(file)
            twice = tensors.keys() & more.keys()
            if twice:
                raise CheckpointError(f"{file} holds {min(twice)} once more than the other files")
            tensors |= more
        if OUTPUT_LAYER in tensors:
            check_output_layer(self.folder, tensors[OUTPUT_LAYER], OUTPUT_LAYER)
        check_finite_samples(self.folder, tensors)
        return tensors

    def content(self, settings: str) -> str:
        """Hash a sample of the files, and a text with whatever else decides the answers."""
        if len(self.files) == 1:
            return sampled_hash(self.files[0], settings)
        digest = hashlib.blake2b(settings.encode(), digest_size=16)
        for file in self.files:
            digest.update(sampled_hash(file, file.name).encode())
        return digest.hexdigest()

    @property
    def float32_bytes(self) -> int:
        """Return the memory of the parameters in float32, as far as the files' names tell."""
        stored = sum(file.stat().st_size for file in self.files)
        return 2 * stored if self.variant in HALF else stored


def find_weights(folder: Path) -> FolderWeights:
    """Find a folder's weights; CheckpointError where there are none, a part of them is missing, or
    several variants and none without a name.
    """
    for kind in KINDS:
        whole = folder / f"{STEM}.{kind}"
        if whole.exists():
            return FolderWeights(folder=folder, files=(whole,))
        index = folder / f"{STEM}.{kind}.index.json"
        if index.exists():
            return FolderWeights(folder=folder, files=_shards(index))
    for kind in KINDS:
        variants = _variants(folder, kind)
        if len(variants) > 1:
            raise CheckpointError(
                f"{folder} holds several variants of its weights ({', '.join(sorted(variants))}): "
                "keep the wanted one there"
            )
        for variant, files in variants.items():
            return FolderWeights(folder=folder, files=files, variant=variant)
    raise CheckpointError(
        f"{folder} holds neither {STEM}.safetensors nor {STEM}.bin; save the whole model there"
    )


def _variants(folder: Path, kind: str) -> dict[str, tuple[Path, ...]]:
    """Return the files of every variant."""
    found: dict[str, tuple[Path, ...]] = {}
    for file in sorted(folder.glob(f"{STEM}.*")):
        if whole := re.fullmatch(rf"{STEM}\.(\w+)\.{kind}", file.name):
            found[whole[1]] = (file,)
        elif index := re.fullmatch(rf"{STEM}\.{kind}\.index\.(\w+)\.json", file.name):
            found.setdefault(index[1], _shards(file))
    return found


def _shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index lists, in their order; CheckpointError where one is not
    there.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no weight_map, which says where every parameter is")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if Path(name).name != name or not (index.parent / name).exists():
            raise CheckpointError(
                f"{index} lists {name}, which is not beside it; fetch all of its {len(names)} files"
            )
    return tuple(index.parent / name for name in names)
