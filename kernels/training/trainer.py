"""Train a local U-Net: one step, the moving average, validation, early stop, and a state that
survives any death.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.denoisers.builtin import (
    LocalUNet,
    estimate_x0,
    network_output,
    network_target,
    read_prior,
)
from kernels.denoisers.predictor import SIGMA as PREDICTION_SIGMA
from kernels.training.recipe import (
    PREDICTED_SCALES,
    PREDICTION_WEIGHT,
    CropSource,
    TrainingBatch,
    TrainingSpec,
    enlarged,
    learning_rate,
    make_batch,
    undetermined,
)

# Noise levels of the validation, in the [-1, 1] range: 0.05, 0.125 and 0.25 of full scale.
VALIDATION_SIGMAS = (0.1, 0.25, 0.5)
# A validation counts as better by this much, dB: less is the weather of the moving average.
BETTER = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Say how a training stands: at every step, and with figures at every validation."""

    step: int
    steps: int
    loss: float
    """Mean since the last validation; NaN before the first step."""
    psnr: tuple[float, ...] = ()
    """Validation PSNR at VALIDATION_SIGMAS (of a predictor: from PREDICTED_SCALES), dB; empty
    between validations.
    """
    seconds: float = 0.0
    """Since this call began."""


Listener = Callable[[Progress], None]


class Trainer:
    """Hold the network, its moving average and the optimiser; advance by one step; save and restore
    itself.
    """

    def __init__(self, spec: TrainingSpec, device: torch.device | str = "cpu") -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.step = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            net = LocalUNet(spec.config)
        if spec.init:
            config, state = read_prior(Path(spec.init))
            if config != spec.config:
                raise ValueError(
                    f"{spec.init} holds {config}, not {spec.config}; choose its own preset"
                )
            net.load_state_dict({key: value.float() for key, value in state.items()})
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), betas=(0.9, 0.98), weight_decay=1e-3, fused=True
        )
        self.losses: list[float] = []
        """Since the last validation."""
        self.history: list[list[float]] = []
        """Step and validation PSNRs of every validation."""
        self.best: dict[str, Tensor] | None = None
        """The moving average at the best validation."""
        self.best_at = 0

    def advance(self, batch: TrainingBatch) -> float:
        """Take one step on a batch; return its loss."""
        x0, z, sigma = (part.to(self.device) for part in (batch.x0, batch.z, batch.sigma))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.spec, self.step)
        with torch.autocast(self.device.type, torch.bfloat16):
            output = network_output(self.net, z, sigma)
        if batch.scale:
            error = estimate_x0(output, z, sigma) - x0
            loss = PREDICTION_WEIGHT * undetermined(error, batch.scale).square().mean()
        else:
            loss = (output - network_target(x0, z, sigma)).square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        # Short memory at the start, so that the average does not remember the random weights.
        decay = min(self.spec.ema, self.step / (self.step + 9))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.net.parameters()), 1 - decay
            )
        self.losses.append(loss.item())
        return self.losses[-1]

    def assess(self, held_out: Tensor) -> tuple[float, tuple[float, ...]]:
        """Validate the moving average and keep it if it is the best; return the loss since the last
        time, and PSNRs.
        """
        loss = float(np.mean(self.losses)) if self.losses else math.nan
        if self.spec.objective == "predict":
            psnr = tuple(validate_predictions(self.average, held_out))
        else:
            psnr = tuple(validate(self.average, held_out, self.spec.seed))
        gained = not self.history or np.mean(psnr) > self.best_psnr + BETTER
        self.history.append([self.step, *psnr])
        self.losses = []
        if gained:
            self.best_at = self.step
            self.best = {
                key: value.detach().clone() for key, value in self.average.state_dict().items()
            }
        return loss, psnr

    @property
    def best_psnr(self) -> float:
        """Return the mean validation PSNR at the best validation, dB."""
        return max(
            (float(np.mean(row[1:])) for row in self.history if row[0] == self.best_at),
            default=-math.inf,
        )

    def save(self, path: Path) -> None:
        """Write the state to a file that is either the old one or the new one, whole."""
        state = {
            "spec": json.dumps(asdict(self.spec)),
            "step": self.step,
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "losses": self.losses,
            "history": self.history,
            "best": self.best,
            "best_at": self.best_at,
        }
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from a saved state; raise ValueError when it belongs to another specification
        (steps may differ).
        """
        state = read_state(path, self.device)
        now = json.loads(json.dumps(asdict(self.spec)))
        then = json.loads(json.dumps(asdict(TrainingSpec()))) | json.loads(state["spec"])
        differing = sorted(key for key in now if key != "steps" and then[key] != now[key])
        if differing:
            names = ", ".join(differing)
            raise ValueError(
                f"{path} was trained with another {names}; use the same or another --out"
            )
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.losses = state.get("losses", [])
        self.history = state.get("history", [])
        self.best = state.get("best")
        self.best_at = state.get("best_at", 0)


def read_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `Trainer.save` wrote; raise ValueError when the file is none."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is no checkpoint of a training ({str(error).splitlines()[0]}); delete it"
        ) from error
    return dict(state)


@torch.no_grad()
def validate(net: LocalUNet, x0: Tensor, seed: int) -> list[float]:
    """Return the mean PSNR, dB, of denoising held-out pictures (B, C, H, W) in [-1, 1] at each of
    VALIDATION_SIGMAS.
    """
    rng = np.random.default_rng([seed, 2])
    device = next(net.parameters()).device
    noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
    figures = []
    for level in VALIDATION_SIGMAS:
        z = x0 + level * noise
        errors = [
            _error(net, x0[i : i + 1].to(device), z[i : i + 1].to(device), level)
            for i in range(len(x0))
        ]
        figures.append(round(float(-10 * torch.stack(errors).log10().mean()), 3))
    return figures


@torch.no_grad()
def validate_predictions(net: LocalUNet, x0: Tensor) -> list[float]:
    """Return the mean PSNR, dB, of predictions of held-out pictures (B, C, H, W) from each of
    PREDICTED_SCALES.
    """
    x0 = x0.to(next(net.parameters()).device)
    sigma = torch.full((1,), PREDICTION_SIGMA, device=x0.device)
    figures = []
    for scale in PREDICTED_SCALES:
        z = enlarged(x0, scale, rounded=False)
        pictures = zip(x0.split(1), z.split(1), strict=True)
        errors = [
            estimate_x0(network_output(net, one, sigma), one, sigma) - clean
            for clean, one in pictures
        ]
        squares = [undetermined(error, scale).square().mean() / 4 for error in errors]
        figures.append(round(float(-10 * torch.stack(squares).log10().mean()), 3))
    return figures


def _error(
    net: LocalUNet,
    x0: Tensor,
    z: Tensor,
    level: float,
) -> Tensor:
    sigma = torch.full((1,), level, device=x0.device)
    estimate = estimate_x0(network_output(net, z, sigma), z, sigma).clamp(-1, 1)
    return ((estimate - x0).square().mean() / 4).cpu()  # of full scale, which is 2


def fit(
    trainer: Trainer,
    source: CropSource,
    held_out: Tensor,
    checkpoint: Path,
    *,
    every: int = 500,
    patience: int = 0,
    save_every: float = 60.0,
    listener: Listener | None = None,
) -> list[float]:
    """Train to the last step, or until nothing gets better; return the losses of the steps that
    this call took.

    held_out: (B, C, H, W) validation pictures. every: steps between validations. patience:
    validations without a better one until it stops; 0 never stops. save_every: seconds between
    checkpoints.
    """
    losses: list[float] = []
    psnr: tuple[float, ...] = ()
    saved = began = time.monotonic()
    if trainer.step == 0 and trainer.spec.init:  # what it starts from may turn out to be the best
        loss, psnr = trainer.assess(held_out)
        _tell(listener, trainer, loss, psnr, 0.0)
    while trainer.step < trainer.spec.steps and not _stalled(trainer, every, patience):
        losses.append(trainer.advance(make_batch(trainer.spec, source, trainer.step)))
        loss = float(np.mean(trainer.losses))
        psnr = ()
        if trainer.step % every == 0 or trainer.step == trainer.spec.steps:
            loss, psnr = trainer.assess(held_out)
        _tell(listener, trainer, loss, psnr, time.monotonic() - began)
        if time.monotonic() - saved > save_every:
            trainer.save(checkpoint)
            saved = time.monotonic()
    trainer.save(checkpoint)
    return losses


def _tell(
    listener: Listener | None,
    trainer: Trainer,
    loss: float,
    psnr: tuple[float, ...],
    seconds: float,
) -> None:
    if listener is not None:
        listener(
            Progress(
                step=trainer.step, steps=trainer.spec.steps, loss=loss, psnr=psnr, seconds=seconds
            )
        )


def _stalled(trainer: Trainer, every: int, patience: int) -> bool:
    """Tell whether the last `patience` validations brought nothing; a function of the steps, not of
    resumes.
    """
    return (
        patience > 0
        and bool(trainer.history)
        and trainer.step - trainer.best_at >= patience * every
    )
