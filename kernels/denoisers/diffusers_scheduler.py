"""Read from a scheduler's configuration, as the diffusers library saved it, what its network means:
the noise schedule, what the network predicts, and how its clean estimate is made of that.

Schedulers of two kinds stand in such folders for the same networks: those that keep x_t = a x_0 + s
eps themselves (DDPM, DDIM, DPM-Solver), and those that keep x_0 + sigma eps and scale it by
1/sqrt(1 + sigma^2) = a before the network sees it (Euler, Heun, LMS): the network is given the same
picture. How steps are chosen, Karras' sigmas included, belongs to sampling and is not read.
Everything else means another network and is refused by name.

Source of the boundary condition of consistency models: Song et al., "Consistency Models" (ICML
2023), section 3; with the constants of Luo et al., "Latent Consistency Models" (2023), section 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernels.denoisers.guided_diffusion.answer_meaning import PREDICTIONS
from kernels.denoisers.guided_diffusion.weights_file import CheckpointError
from kernels.schedule import Float64, base_alpha_bar, cosine_alpha_bar

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")

USUAL = ("linear", 1e-4, 0.02)
"""beta_schedule, beta_start and beta_end where a configuration does not say them."""

# The schedulers whose networks are known, with what their classes take where nothing is said.
KNOWN: dict[str, tuple[str, float, float]] = dict.fromkeys(
    (
        *("DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler"),
        *("DDIMInverseScheduler", "PNDMScheduler", "RePaintScheduler"),
        *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
        *("DPMSolverMultistepInverseScheduler", "DEISMultistepScheduler"),
        *("UniPCMultistepScheduler", "SASolverScheduler"),
        *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler"),
    ),
    USUAL,
) | {
    "HeunDiscreteScheduler": ("linear", 0.00085, 0.012),
    "KDPM2DiscreteScheduler": ("linear", 0.00085, 0.012),
    "KDPM2AncestralDiscreteScheduler": ("linear", 0.00085, 0.012),
    "DPMSolverSDEScheduler": ("linear", 0.00085, 0.012),
    "LCMScheduler": ("scaled_linear", 0.00085, 0.012),
    "TCDScheduler": ("scaled_linear", 0.00085, 0.012),
}

SIGMA_FORM = "write a module for it and give sigma:package.module:name"

# Where the boundary condition of a latent consistency model hands over from input to answer: this,
# of timesteps multiplied by its `timestep_scaling`.
CONSISTENCY_SIGMA = 0.5
USUAL_TIMESTEP_SCALING = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseProcess:
    """Hold what a scheduler says of its network."""

    prediction: str
    """One of PREDICTIONS."""
    alpha_bar: Float64
    """Base table (n,)."""
    timestep_scaling: float | None = None
    """Of a consistency model, whose estimate is a mixture of input and answer; else None."""
    clips: bool = False
    """Whether a consistency model's answer is clipped to [-1, 1] before it is mixed."""

    def settings(self) -> list[Any]:
        """Return what changes the answers, for a fingerprint."""
        said: list[Any] = [self.prediction, self.alpha_bar.tolist()]
        if self.timestep_scaling is None:
            return said
        return [*said, self.timestep_scaling, self.clips]

    def boundary(self) -> tuple[Float64, Float64] | None:
        """Return (n,) weights of input and of answer in a consistency model's estimate, which is
        its input at timestep 0; None for other networks.
        """
        if self.timestep_scaling is None:
            return None
        scaled = self.timestep_scaling * np.arange(len(self.alpha_bar), dtype=np.float64)
        power = scaled**2 + CONSISTENCY_SIGMA**2
        return CONSISTENCY_SIGMA**2 / power, scaled / np.sqrt(power)


def read_process(path: Path) -> NoiseProcess:
    """Read a scheduler_config.json.

    Raises CheckpointError in one line where it cannot be read, or names a scheduler, prediction or
    schedule with which a network means something else than is known here.
    """
    process = read_json(path)
    kind = process.get("_class_name", "DDPMScheduler")
    if not {"_class_name", "beta_schedule", "trained_betas"} & process.keys():
        raise CheckpointError(
            f"{path} names neither a scheduler nor its beta_schedule; supported: "
            f"{', '.join(SCHEDULES)}"
        )
    _check_kind(path, kind, process)
    _check_clip(path, process)
    prediction = process.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise CheckpointError(f"{path}: prediction_type {prediction!r} is unknown; known: {known}")
    scaling = None
    if kind == "LCMScheduler":
        scaling = float(process.get("timestep_scaling", USUAL_TIMESTEP_SCALING))
    return NoiseProcess(
        prediction=prediction,
        alpha_bar=_alpha_bar(path, process, KNOWN[kind]),
        timestep_scaling=scaling,
        clips=bool(process.get("clip_sample", False)),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration; CheckpointError where it is none."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(settings, dict):
        kind = type(settings).__name__
        raise CheckpointError(f"{path} holds a {kind}, not an object of settings")
    return settings


def _check_kind(path: Path, kind: str, process: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a scheduler's networks take x_t and a timestep."""
    if kind not in KNOWN:
        raise CheckpointError(
            f"{path} is a {kind}, whose networks take other noise levels than a beta_schedule's; "
            f"{SIGMA_FORM}, or put there the scheduler of its training"
        )
    if process.get("use_flow_sigmas") or process.get("prediction_type") == "flow_prediction":
        raise CheckpointError(
            f"{path}: a flow-matching network (use_flow_sigmas or flow_prediction) mixes picture "
            f"and noise otherwise; {SIGMA_FORM}"
        )
    if process.get("timestep_type", "discrete") != "discrete":
        raise CheckpointError(
            f"{path}: timestep_type {process['timestep_type']!r} gives the network noise levels, "
            f"not timesteps; {SIGMA_FORM}"
        )


def _check_clip(path: Path, process: Mapping[str, Any]) -> None:
    """Raise CheckpointError where pictures do not lie in [-1, 1]."""
    limits = []
    if process.get("clip_sample", True):
        limits.append("clip_sample_range")
    if process.get("thresholding"):
        limits.append("sample_max_value")
    for name in limits:
        limit = process.get(name, 1.0)
        if limit != 1:
            raise CheckpointError(
                f"{path}: {name} is {limit}, and networks here have their pictures in [-1, 1]; "
                f"scale its weights for that range and set {name} to 1"
            )


def _alpha_bar(path: Path, process: Mapping[str, Any], usual: tuple[str, float, float]) -> Float64:
    """Return the base table that a configuration describes, in float64."""
    n = process.get("num_train_timesteps", 1000)
    start = process.get("beta_start", usual[1])
    end = process.get("beta_end", usual[2])
    if process.get("trained_betas") is not None:
        betas = np.asarray(process["trained_betas"], dtype=np.float64)
        alpha_bar = np.cumprod(1 - betas)
    elif process.get("beta_schedule", usual[0]) == "squaredcos_cap_v2":
        alpha_bar = cosine_alpha_bar(n)
    else:
        betas = _betas(path, process.get("beta_schedule", usual[0]), start, end, n)
        alpha_bar = np.cumprod(1 - betas)
    if process.get("rescale_betas_zero_snr"):
        # Lin et al. 2024, Algorithm 1: the last timestep is pure noise. No clean estimate exists
        # there: it is left out.
        root = np.sqrt(alpha_bar)
        stretched = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alpha_bar = (stretched**2)[:-1]
    return base_alpha_bar(tuple(alpha_bar.tolist()), len(alpha_bar))


def _betas(path: Path, name: str, start: float, end: float, n: int) -> Float64:
    """Return the betas (n,) of a schedule by its name."""
    if name == "linear":
        return np.linspace(start, end, n, dtype=np.float64)
    if name == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, n, dtype=np.float64) ** 2
    if name == "sigmoid":
        rise = 1 / (1 + np.exp(-np.linspace(-6, 6, n, dtype=np.float64)))
        return start + (end - start) * rise
    supported = ", ".join(SCHEDULES)
    raise CheckpointError(
        f"{path}: beta_schedule {name!r} is not supported; supported: {supported}"
    )
