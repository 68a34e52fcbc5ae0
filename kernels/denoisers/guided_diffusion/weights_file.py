"""Read named tensors from a file of weights without executing anything in it; say what a file is
when it holds none.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class CheckpointError(ValueError):
    """Say in one line why a file cannot be used as a checkpoint."""


MAGIC = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a TIFF image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"GGUF", "a GGUF language model"),
    (b"version https://git-lfs", "a Git LFS pointer, fetch the file itself with git lfs pull"),
    (b"<", "a web page or XML, perhaps a failed download"),
    (b"{", "a JSON text"),
)

FOREIGN = (
    ("model.diffusion_model.", "a latent diffusion model; only pixel-space models can restore"),
    ("down_blocks.", "a diffusers U-Net, give its folder as diffusers:FOLDER"),
    ("down.0.", "a DDPM U-Net (Ho et al.)"),
    ("enc.", "an EDM or score-SDE network"),
    ("model.enc.", "an EDM network"),
    ("param_groups", "an optimizer state, not the model"),
)
"""Key prefixes that give away other families."""


def read_named_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file that holds one mapping of names to tensors, of whatever network; errors as of
    `read_file`.
    """
    holds = read_file(path)
    if not isinstance(holds, Mapping) or not all(
        isinstance(value, Tensor) for value in holds.values()
    ):
        raise CheckpointError(
            f"{path} holds a {type(holds).__name__}, not named tensors: save a state dict"
        )
    return {str(key): value for key, value in holds.items()}


def read_file(path: Path) -> Any:
    """Read what a `.pt` or `.safetensors` file holds, told apart by content; memory-mapped where
    the format allows.

    Raises CheckpointError in one line where the file is missing, truncated, not of weights, or
    would need pickled code to be run.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if head[:4] == b"PK\x03\x04":
        return _read_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return _read_safetensors(path)
    if head[:1] == b"\x80":
        return _torch_load(path, mmap=False)
    raise CheckpointError(f"{path} is not a checkpoint: it is {_name_content(head)}")


def _name_content(head: bytes) -> str:
    if not head:
        return "empty"
    for magic, name in MAGIC:
        if head.lstrip().startswith(magic):
            return name
    try:
        head[:60].decode("ascii")
        return "a text"
    except UnicodeDecodeError:
        return "of an unknown binary format"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()  # safe_open is no mapping
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged safetensors file: {_one_line(error)}"
        ) from error


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged checkpoint: {_one_line(error)}"
        ) from error
    if any("/code/" in name for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript archive, which holds code: save its state_dict instead"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        what = "a zip archive without weights"
        if any(name.endswith(".npy") for name in names):
            what = "a NumPy .npz archive"
        raise CheckpointError(f"{path} is not a checkpoint: it is {what}")
    return _torch_load(path, mmap=True)


def _torch_load(path: Path, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickle protocols; what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = "is damaged, or a pickle of something else than tensors"
        if named:
            what = f"holds pickled code ({named[1]})"
        raise CheckpointError(
            f"{path} {what} and was refused unexecuted: "
            "where you trust its source, convert it to safetensors "
            "(torch.load(..., weights_only=False), "
            "then safetensors.torch.save_file of its state dict)"
        ) from error
    except (RuntimeError, EOFError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged checkpoint: {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).split(". ")[0]
