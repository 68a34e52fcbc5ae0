"""Train a prior of the built-in family on synthetic images, by steps and with fixed seeds.

    python -m kernels.train --preset builtin --seed 0 --out DIR            # said again: resumes
    python -m kernels.train --preset builtin --seed 0 --out DIR --steps N  # resumes with another end and its cosine
    python -m kernels.train export DIR prior.safetensors                   # float16, at any moment

Batch k is a function of (seed, k) alone: a run that was killed and resumed sees the same examples as one that was not.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from kernels.builtin import FORMAT, LocalUNet, PriorConfig, estimate_x0, network_output, network_target, read_prior
from kernels.pool import Collection, ImagePool

CHECKPOINT = "checkpoint.pt"
# Weights of red, green and blue in a grey version of a crop, about the eye's.
GREY = np.array([0.3, 0.6, 0.1], np.float32)
# Noise levels of the validation, in the [-1, 1] range: 0.05, 0.125 and 0.25 of full scale.
VALIDATION_SIGMAS = (0.1, 0.25, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """State everything that decides the weights, but for the processor's rounding."""

    config: PriorConfig = field(default_factory=PriorConfig)
    seed: int = 0
    init: str = ""
    """Prior file to start from; empty starts from random weights."""
    steps: int = 40_000
    batch: int = 16
    """Examples per step while crops are small; four times fewer once they are large, so that a step costs the same."""
    crop: int = 64
    """Side of the small crops, px; twice that in the last two fifths, to learn wider context."""
    learning_rate: float = 8e-4
    warmup: int = 200
    ema: float = 0.9985
    image_side: int = 320
    shard_images: int = 32
    shards: int = 64
    steps_per_shard: int = 100
    """Steps until one more shard of images comes into use: drawing keeps pace with training."""

    def collection(self, directory: Path) -> Collection:
        """Name the images of this run."""
        return Collection(
            directory=directory,
            seed=self.seed,
            side=self.image_side,
            shard_images=self.shard_images,
            shards=self.shards,
        )


PRESETS = {
    "builtin": TrainingSpec(),
    # For a GPU: 4.4 M parameters, 8.8 MB.
    "builtin-large": TrainingSpec(
        config=PriorConfig(channels=(80, 112, 160), blocks=(3, 3, 2)), steps=60_000, batch=128, shards=256
    ),
    # Two minutes on one CPU core: shows that training works, makes nothing worth keeping.
    "smoke": TrainingSpec(
        config=PriorConfig(channels=(16, 24, 32), blocks=(1, 1, 1)), steps=600, batch=8, image_side=128, shards=8
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Hold one step's examples: z = x0 + sigma n."""

    x0: Tensor
    z: Tensor
    sigma: Tensor


def make_batch(spec: TrainingSpec, pool: ImagePool, step: int) -> Batch:
    """Return the examples of one step, a function of (spec, step): x0 and z (B, C, s, s) in [-1, 1], sigma (B,)."""
    rng = np.random.default_rng([spec.seed, 1, step])
    large = step >= 0.6 * spec.steps
    side, count = (2 * spec.crop, max(1, spec.batch // 4)) if large else (spec.crop, spec.batch)
    visible = 1 + step // spec.steps_per_shard
    crops = [augment(rng, pool.crop(rng, visible, side)) for _ in range(count)]
    x0 = torch.from_numpy(np.stack(crops))
    sigma = torch.from_numpy(draw_sigma(rng, count))
    noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
    return Batch(x0=x0, z=x0 + sigma[:, None, None, None] * noise, sigma=sigma)


def draw_sigma(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Draw noise levels: log-normal about those that decide detail, one in five log-uniform over the whole schedule."""
    log_sigma = rng.normal(-1.7, 1.4, count)
    spread = rng.random(count) < 0.2
    log_sigma[spread] = rng.uniform(math.log(0.005), math.log(160), int(spread.sum()))
    return np.exp(log_sigma).clip(0.004, 160).astype(np.float32)


def augment(rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn, mirror and recolour a crop (3, s, s) uint8; return float32 in [-1, 1]."""
    x = np.rot90(crop, int(rng.integers(4)), (1, 2)).astype(np.float32) / 127.5 - 1
    if rng.random() < 0.5:
        x = x[:, :, ::-1]
    if rng.random() < 0.3:
        x = x[rng.permutation(3)]
    if rng.random() < 0.15:
        x = -x
    if rng.random() < 0.15:  # grey, as many microscopes and scanners are
        x = np.repeat(np.tensordot(GREY, x, 1)[None], 3, 0)
    if rng.random() < 0.3:
        gain = rng.uniform(0.4, 1.0)
        x = x * np.float32(gain) + np.float32(rng.uniform(-1, 1) * (1 - gain))
    return np.ascontiguousarray(x, dtype=np.float32)


def learning_rate(spec: TrainingSpec, step: int) -> float:
    """Warm up linearly, then follow a cosine to zero at the last step."""
    return spec.learning_rate * min(1.0, (step + 1) / spec.warmup) * 0.5 * (1 + math.cos(math.pi * step / spec.steps))


class Trainer:
    """Hold the network, its moving average and the optimiser; advance by one step; save and restore itself."""

    def __init__(self, spec: TrainingSpec, device: torch.device | str = "cpu") -> None:
        self.spec, self.device, self.step = spec, torch.device(device), 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            net = LocalUNet(spec.config)
        if spec.init:
            config, state = read_prior(Path(spec.init))
            if config != spec.config:
                raise ValueError(f"{spec.init} holds {config}, not {spec.config}; choose its own preset")
            net.load_state_dict({key: value.float() for key, value in state.items()})
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), betas=(0.9, 0.98), weight_decay=1e-3, fused=True)

    def advance(self, batch: Batch) -> float:
        """Take one step on a batch; return its loss."""
        x0, z, sigma = (part.to(self.device) for part in (batch.x0, batch.z, batch.sigma))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.spec, self.step)
        with torch.autocast(self.device.type, torch.bfloat16):
            output = network_output(self.net, z, sigma)
        loss = (output - network_target(x0, z, sigma)).square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        # Short memory at the start, so that the average does not remember the random weights.
        decay = min(self.spec.ema, self.step / (self.step + 9))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), 1 - decay)
        return loss.item()

    def save(self, path: Path) -> None:
        """Write the state to a file that is either the old one or the new one, whole."""
        state = {
            "spec": json.dumps(asdict(self.spec)),
            "step": self.step,
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from a saved state; raise ValueError when it belongs to another specification (steps may differ)."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        then, now = json.loads(state["spec"]), json.loads(json.dumps(asdict(self.spec)))
        differing = sorted(key for key in now if key != "steps" and then.get(key) != now[key])
        if differing:
            raise ValueError(f"{path} was trained with another {', '.join(differing)}; use the same or another --out")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


@torch.no_grad()
def validate(net: LocalUNet, images: Collection, device: torch.device, count: int = 6) -> list[float]:
    """Return the mean PSNR, dB, of denoising held-out synthetic images at each of VALIDATION_SIGMAS."""
    rng = np.random.default_rng([images.seed, 2])
    side = min(128, images.side)
    held_out = [images.held_out(i)[:, :side, :side] for i in range(count)]
    x0 = torch.from_numpy(np.stack(held_out)).float().to(device) / 127.5 - 1
    noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32)).to(device)
    figures = []
    for level in VALIDATION_SIGMAS:
        sigma = torch.full((count,), level, device=device)
        z = x0 + level * noise
        error = (estimate_x0(network_output(net, z, sigma), z, sigma).clamp(-1, 1) - x0).square().mean((1, 2, 3)) / 4
        figures.append(round(float(-10 * error.log10().mean()), 3))
    return figures


def train(
    spec: TrainingSpec, out: Path, *, device: str = "cpu", drawers: int = 0, save_every: float = 60.0
) -> list[float]:
    """Train to the last step, resuming what `out` holds; return the losses of the steps taken by this call.

    drawers: processes that draw images ahead; 0 draws them between steps. save_every: seconds between checkpoints.
    """
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(spec, device)
    if (out / CHECKPOINT).exists():
        trainer.restore(out / CHECKPOINT)
    losses: list[float] = []
    saved, began = time.monotonic(), time.monotonic()
    images = spec.collection(out / "images")
    with ImagePool(images, drawers) as pool:
        while trainer.step < spec.steps:
            losses.append(trainer.advance(make_batch(spec, pool, trainer.step)))
            if trainer.step % 500 == 0 or trainer.step == spec.steps:
                record = {
                    "step": trainer.step,
                    "loss": round(float(np.mean(losses[-500:])), 5),
                    "psnr": validate(trainer.average, images, trainer.device),
                    "seconds": round(time.monotonic() - began),
                }
                _log(out / "log.jsonl", record)
            if time.monotonic() - saved > save_every:
                trainer.save(out / CHECKPOINT)
                saved = time.monotonic()
    trainer.save(out / CHECKPOINT)
    return losses


def export(out: Path, path: Path) -> int:
    """Write the moving average that `out` holds as a float16 prior file; return the step that it was taken at."""
    state = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=True)
    spec = json.loads(state["spec"])
    tensors = {key: value.half().contiguous() for key, value in state["average"].items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(spec["config"]),
        "training": json.dumps(spec | {"step": state["step"], "init": Path(spec["init"]).name}),
        "trained_on": "images drawn by kernels/synth.py only",
        "license": "Apache-2.0",
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)
    return int(state["step"])


def _log(path: Path, record: dict[str, object]) -> None:
    with path.open("a") as file:
        print(json.dumps(record), file=file)
    print(json.dumps(record), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.train", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command")
    exporting = commands.add_parser("export", help="write the trained prior as float16 safetensors")
    exporting.add_argument("directory", type=Path)
    exporting.add_argument("file", type=Path)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="builtin")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="directory of checkpoint, log and drawn images")
    parser.add_argument("--steps", type=int, help="last step; on a resume the learning rate follows the new cosine")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--init", default="", help="prior file to start from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the network on a CPU")
    parser.add_argument("--drawers", type=int, default=1, help="processes that draw images")
    options = parser.parse_args(arguments)
    if options.command == "export":
        print(f"{options.file}: step {export(options.directory, options.file)}")
        return 0
    if options.out is None:
        parser.error("--out is needed: the directory of checkpoint, log and drawn images")
    chosen = {"steps": options.steps, "learning_rate": options.learning_rate}
    changes = {name: value for name, value in chosen.items() if value is not None}
    spec = replace(PRESETS[options.preset], seed=options.seed, init=options.init, **changes)
    torch.set_num_threads(options.threads)
    # Small activations become denormal late in training, and then cost ten times as much.
    torch.set_flush_denormal(True)
    train(spec, options.out, device=options.device, drawers=options.drawers)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
