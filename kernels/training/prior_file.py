"""Write a trained prior: float16 tensors, and metadata that say where they come from and how far
they reach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.builtin import FORMAT, BuiltinDenoiser, LocalUNet, PriorConfig
from kernels.denoisers.domain_statistics import statistics
from kernels.denoisers.predictor import FORMAT as PREDICTOR_FORMAT
from kernels.denoisers.prior_metadata import Metadata
from kernels.training.recipe import PREDICTED_SCALES
from kernels.training.trainer import VALIDATION_SIGMAS, read_state, validate, validate_predictions


def export_prior(
    checkpoint: Path,
    path: Path,
    held_out: Tensor,
    domain_pictures: Tensor,
    extra: Metadata,
) -> dict[str, str]:
    """Write the best moving average of a training, the last one where there was no validation;
    return its metadata.

    held_out, domain_pictures: pictures (N, C, H, W) in [-1, 1] for validation, and that stand for
    what the prior knows. extra: what the caller knows of the data: `trained_on`, `license` and
    more.
    """
    state = read_state(checkpoint)
    spec = json.loads(state["spec"])
    best = state.get("best")
    chosen, step = (state["average"], state["step"]) if best is None else (best, state["best_at"])
    config = PriorConfig.from_json(json.dumps(spec["config"]))
    tensors = {key: value.half().contiguous() for key, value in chosen.items()}
    predicts = spec.get("objective") == "predict"
    metadata = {
        "format": PREDICTOR_FORMAT if predicts else FORMAT,
        "config": config.to_json(),
        "training": json.dumps(spec | {"step": step, "init": Path(spec["init"]).name}),
        **extra,
        **(
            predicted(config, tensors, held_out)
            if predicts
            else measured(config, tensors, held_out, domain_pictures)
        ),
    }
    write_prior(path, tensors, metadata)
    return metadata


def measured(
    config: PriorConfig,
    tensors: Mapping[str, Tensor],
    held_out: Tensor,
    known: Tensor,
) -> dict[str, str]:
    """Return the metadata that are figures of a network: of its validation, and of its domain
    (kernels.denoisers.domain_statistics).
    """
    net = LocalUNet(config)
    net.load_state_dict({key: value.float() for key, value in tensors.items()})
    denoiser = BuiltinDenoiser(net, DenoiserInfo(name="prior", channels=config.image_channels))
    psnr = validate(denoiser.net, held_out, seed=0)
    return {
        "validation": json.dumps(
            {"sigmas": VALIDATION_SIGMAS, "psnr": psnr, "pictures": len(held_out)}
        ),
        "domain": statistics(denoiser, known).to_json(),
    }


def predicted(
    config: PriorConfig, tensors: Mapping[str, Tensor], held_out: Tensor
) -> dict[str, str]:
    """Return the metadata that are figures of a predictor."""
    net = LocalUNet(config)
    net.load_state_dict({key: value.float() for key, value in tensors.items()})
    psnr = validate_predictions(net, held_out)
    return {
        "validation": json.dumps(
            {"scales": PREDICTED_SCALES, "psnr": psnr, "pictures": len(held_out)}
        )
    }


def write_prior(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write a prior file that is either the old one or the new one, whole."""
    partial = path.with_name(path.name + ".partial")
    save_file(dict(tensors), partial, metadata=dict(metadata))
    partial.replace(path)
