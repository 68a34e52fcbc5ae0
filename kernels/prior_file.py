"""Write a trained prior: float16 tensors, and metadata that say where they come from and how far they reach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from kernels.builtin import FORMAT, BuiltinDenoiser, LocalUNet, PriorConfig
from kernels.catalog import DenoiserInfo
from kernels.domain import statistics
from kernels.prior_metadata import Metadata
from kernels.trainer import VALIDATION_SIGMAS, read_state


def export_prior(checkpoint: Path, path: Path, domain_pictures: Tensor, extra: Metadata) -> dict[str, str]:
    """Write the best moving average of a training, the last one where there was no validation; return its metadata.

    domain_pictures: held-out pictures (N, C, H, W) in [-1, 1] that stand for what the prior knows. extra: what the
    caller knows of the data: `trained_on`, `license` and more.
    """
    state = read_state(checkpoint)
    spec, history = json.loads(state["spec"]), state.get("history", [])
    best, best_at = state.get("best"), state.get("best_at", 0)
    chosen, step = (state["average"], state["step"]) if best is None else (best, best_at)
    tensors = {key: value.half().contiguous() for key, value in chosen.items()}
    rows = [row for row in history if row[0] == step]
    validation = {"sigmas": VALIDATION_SIGMAS, "psnr": rows[-1][2:] if rows else [], "loss": rows[-1][1] if rows else 0}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(spec["config"]),
        "training": json.dumps(spec | {"step": step, "init": Path(spec["init"]).name}),
        "validation": json.dumps(validation),
        **extra,
    }
    config = PriorConfig.from_json(metadata["config"])
    metadata["domain"] = domain_record(config, tensors, domain_pictures)
    write_prior(path, tensors, metadata)
    return metadata


def write_prior(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write a prior file that is either the old one or the new one, whole."""
    partial = path.with_name(path.name + ".partial")
    save_file(dict(tensors), partial, metadata=dict(metadata))
    partial.replace(path)


def domain_record(config: PriorConfig, tensors: Mapping[str, Tensor], pictures: Tensor) -> str:
    """Return the JSON of what a network's residual is on pictures (N, C, H, W) in [-1, 1] that stand for its domain."""
    net = LocalUNet(config)
    net.load_state_dict({key: value.float() for key, value in tensors.items()})
    info = DenoiserInfo(name="prior", channels=config.image_channels)
    return statistics(BuiltinDenoiser(net, info), pictures).to_json()
