"""Load a UNet2DModel that the diffusers library saved, together with its scheduler's configuration.

Only the network is built by that library (the extra `diffusers`); the configurations are plain
JSON, and the weights are read as every other checkpoint here: safetensors first, a pickled `.bin`
only if it needs no code to be run (kernels/denoisers/diffusers_weights.py). The noise schedule and
the meaning of the network's answer (noise, image, or v) come from the scheduler's configuration
(kernels/denoisers/diffusers_scheduler.py).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from kernels.denoiser_info import UNET_VALUES_PER_WIDTH, DenoiserInfo
from kernels.denoisers.diffusers_scheduler import NoiseProcess, read_json, read_process
from kernels.denoisers.diffusers_weights import FolderWeights, find_weights
from kernels.denoisers.guided_diffusion.answer_meaning import eps_of, picture_of
from kernels.denoisers.guided_diffusion.trained_weights import check_finite
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError

# Names of attention weights before version 0.14 of the library, and since.
RENAMED = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Hold what a folder says: where its weights are, both configurations checked."""

    path: Path
    weights: FolderWeights
    config: dict[str, Any]
    process: NoiseProcess
    label: int | None

    @property
    def multiple(self) -> int:
        """Return what both sides of a tile must be multiples of, px."""
        return int(2 ** (len(self.config["block_out_channels"]) - 1))


class DiffusersDenoiser:
    """Predict the noise in x_t with a UNet2DModel (a `Denoiser`), whatever it predicts itself."""

    def __init__(
        self,
        model: nn.Module,
        info: DenoiserInfo,
        process: NoiseProcess,
        label: int | None,
    ) -> None:
        self.model = model
        self.info = info
        self.process = process
        self.label = label
        tables = [np.sqrt(process.alpha_bar), np.sqrt(1 - process.alpha_bar)]
        tables += process.boundary() or ()
        self._tables = torch.from_numpy(np.stack(tables)).float()

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Estimate eps (B, C, H, W) float32 at x_t (B, C, H, W) and base timesteps t (B,); drop a
        learned variance.

        Raises ValueError where the sides do not fit the network.
        """
        height, width = x_t.shape[-2:]
        multiple = self.info.multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"a tile of {height} x {width} does not fit {self.info.name}: "
                f"sides must be multiples of {multiple} px"
            )
        y = None if self.label is None else torch.full_like(t, self.label)
        (output,) = self.model(x_t, t, class_labels=y, return_dict=False)
        answer = output[:, : self.info.channels]
        if self.process.timestep_scaling is None and self.process.prediction == "epsilon":
            return answer
        a, s, *boundary = self._tables[:, t][..., None, None, None]
        if boundary:
            keep, take = boundary
            estimate = self._clean(answer, x_t, a, s)
            return (x_t - a * (keep * x_t + take * estimate)) / s
        return eps_of(self.process.prediction, answer, x_t, a, s)

    def _clean(self, answer: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """Return a consistency model's answer as a picture."""
        picture = picture_of(self.process.prediction, answer, x_t, a, s)
        return picture.clamp(-1.0, 1.0) if self.process.clips else picture

    def to(self, device: torch.device | str) -> Self:
        """Move the weights and tables to a device, in place."""
        self.model.to(device)
        self._tables = self._tables.to(device)
        return self


def describe_diffusers(path: str | Path, label: int | None = None) -> DenoiserInfo:
    """Check a folder's configurations and describe its denoiser; reads a sample of the weights'
    bytes for their hash.

    Raises CheckpointError (a ValueError) in one line where the folder lacks a part, is of another
    kind of model, or has a setting that is not supported, where its weights are untrained or
    damaged, and where the extra is not installed.
    """
    _require_library()
    folder = _open(Path(path), label)
    folder.weights.read()  # refuses what cannot be used; mapped, so that little is read
    return _info(folder)


def load_diffusers(
    path: str | Path, device: torch.device | str = "cpu", label: int | None = None
) -> DiffusersDenoiser:
    """Load a folder's denoiser; errors as for `describe_diffusers`, and where a weight is missing
    or does not fit.
    """
    _require_library()
    folder = _open(Path(path), label)
    from diffusers import UNet2DModel

    try:
        with torch.device("meta"):
            model = UNet2DModel.from_config(folder.config)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        line = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder.path}: its config.json describes no network: {line}"
        ) from error
    _fill(model, folder)
    return DiffusersDenoiser(
        model.eval().requires_grad_(False), _info(folder), folder.process, label
    ).to(device)


def _require_library() -> None:
    if importlib.util.find_spec("diffusers") is None:
        raise CheckpointError(
            "diffusers: folders need an extra package: pip install 'gigarestore[diffusers]'"
        )


def _open(path: Path, label: int | None) -> Folder:
    """Find the parts of a pipeline's folder (unet/, scheduler/) or of a network's own, and check
    their settings.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is no folder; give one that diffusers' save_pretrained wrote"
        )
    _check_pixel_space(path)
    network = path / "unet" if (path / "unet").is_dir() else path
    scheduler = _scheduler_file(path, network)
    weights = find_weights(network)
    config = read_json(network / "config.json")
    process = read_process(scheduler)
    _check_network(network, config, label)
    return Folder(
        path=path,
        weights=weights,
        config=config,
        process=process,
        label=label,
    )


def _check_pixel_space(path: Path) -> None:
    """Raise CheckpointError where a pipeline's folder has parts of latent or text-driven models."""
    index = path / "model_index.json"
    if not index.exists():
        return
    latent = sorted(read_json(index).keys() & {"vae", "vqvae", "text_encoder"})
    if latent:
        raise CheckpointError(
            f"{path} is a latent or text-driven model (it has {latent[0]}); "
            "only pixel-space models fit"
        )


def _scheduler_file(path: Path, network: Path) -> Path:
    """Return the file that says the noise schedule; raise CheckpointError where there is none."""
    for folder in (path / "scheduler", network, path.parent / "scheduler"):
        file = folder / "scheduler_config.json"
        if file.exists():
            return file
    raise CheckpointError(
        f"{path} has no scheduler/scheduler_config.json, which says the noise schedule; add it"
    )


def _check_network(path: Path, config: Mapping[str, Any], label: int | None) -> None:
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise CheckpointError(
            f"{path} is a {kind}; only UNet2DModel, an unconditional or class-conditional one, fits"
        )
    embedding = config.get("time_embedding_type", "positional")
    if embedding != "positional":
        raise CheckpointError(
            f"{path} embeds noise levels, not timesteps ({embedding}); "
            "write a module for it and give sigma:package.module:name"
        )
    c_in = config.get("in_channels", 3)
    c_out = config.get("out_channels", 3)
    if c_out not in (c_in, 2 * c_in) or not config.get("block_out_channels"):
        raise CheckpointError(
            f"{path} takes {c_in} channels and gives {c_out}: not a denoiser of images"
        )
    if config.get("class_embed_type") not in (None, "timestep"):
        raise CheckpointError(
            f"{path} takes class embeddings ({config['class_embed_type']}), not numbers; "
            "not supported"
        )
    classes = config.get("num_class_embeds")
    if classes is None and config.get("class_embed_type") is None:
        if label is not None:
            raise CheckpointError(
                f"{path} knows no classes, and class {label} was given: leave it out"
            )
    elif label is None or not 0 <= label < (classes or np.inf):
        given = "none was given" if label is None else f"{label} was given"
        raise CheckpointError(
            f"{path} is class-conditional, {given}: give --class N from 0 to {(classes or 0) - 1}"
        )


def _fill(model: nn.Module, folder: Folder) -> None:
    """Give the network the file's tensors; raise CheckpointError naming the first that is missing
    or does not fit.
    """
    tensors = {_renamed(key): value.float() for key, value in folder.weights.read().items()}
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    wrong = [f"{key} is missing" for key in expected if key not in tensors]
    wrong += [f"{key} does not belong to the network" for key in tensors if key not in expected]
    wrong += [
        f"{key} has shape {tuple(value.shape)}, expected {expected[key]}"
        for key, value in tensors.items()
        if key in expected and tuple(value.shape) != expected[key]
    ]
    if wrong:
        raise CheckpointError(
            f"{folder.weights.folder} does not fit config.json: {wrong[0]} "
            f"({len(wrong)} differ in all)"
        )
    check_finite(folder.weights.folder, tensors)
    model.load_state_dict(tensors, assign=True)


def _renamed(key: str) -> str:
    for old, new in RENAMED if ".attentions." in key else ():
        key = key.replace(old, new)
    return key


def _info(folder: Folder) -> DenoiserInfo:
    size = folder.config.get("sample_size") or 256
    side = size if isinstance(size, int) else min(size)
    table = tuple(folder.process.alpha_bar.tolist())
    settings = json.dumps([folder.config, *folder.process.settings(), folder.label], sort_keys=True)
    return DenoiserInfo(
        name=f"diffusers {folder.path.name}"
        + ("" if folder.label is None else f"; class {folder.label}"),
        channels=folder.config.get("in_channels", 3),
        tile=max(side // folder.multiple, 1) * folder.multiple,
        multiple=folder.multiple,
        alpha_bar=table,
        n_timesteps=len(table),
        weight_bytes=folder.weights.float32_bytes,
        values_per_pixel=UNET_VALUES_PER_WIDTH * folder.config["block_out_channels"][0],
        content=folder.weights.content(settings),
    )
