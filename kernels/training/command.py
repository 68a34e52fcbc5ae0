"""Train a prior of the built-in family on synthetic images, by steps and with fixed seeds.

    python -m kernels.training.command --preset builtin --seed 0 --out DIR
        said again: resumes
    python -m kernels.training.command --preset builtin --seed 0 --out DIR --steps N
        resumes with another end and its cosine
    python -m kernels.training.command export DIR prior.safetensors
        float16, at any moment
    python -m kernels.training.command mix A.safetensors B.safetensors OUT.safetensors
        the average of two of one shape

`gigarestore train` does the same with a progress bar, and trains on one's own images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernels.denoisers.builtin import read_prior
from kernels.denoisers.prior_metadata import read_metadata
from kernels.training.prior_file import export_prior, measured, write_prior
from kernels.training.recipe import PRESETS, TrainingSpec, to_unit
from kernels.training.sample_cache import Collection, ImagePool
from kernels.training.trainer import Listener, Progress, Trainer, fit, read_state

CHECKPOINT = "checkpoint.pt"
SYNTHETIC = {
    "trained_on": "images drawn by kernels/training/synthetic.py only",
    "license": "Apache-2.0",
}
# Held-out synthetic pictures of the validation, and those (others) that the statistics of the
# domain are taken from.
VALIDATION_IMAGES = 6
DOMAIN_IMAGES = 24
LARGEST_SIDE = 128


def train(
    spec: TrainingSpec,
    out: Path,
    *,
    device: str = "cpu",
    drawers: int = 0,
    save_every: float = 60.0,
    listener: Listener | None = None,
) -> list[float]:
    """Train on synthetic images to the last step, resuming what `out` holds; return the losses of
    this call's steps.

    drawers: processes that draw images ahead; 0 draws them between steps. save_every: seconds
    between checkpoints.
    """
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(spec, device)
    if (out / CHECKPOINT).exists():
        trainer.restore(out / CHECKPOINT)

    def log(progress: Progress) -> None:
        if progress.psnr:
            record = {"step": progress.step, "loss": round(progress.loss, 5), "psnr": progress.psnr}
            with (out / "log.jsonl").open("a") as file:
                print(json.dumps(record | {"seconds": round(progress.seconds)}), file=file)
        if listener is not None:
            listener(progress)

    images = spec.collection(out / "images")
    held_out = held_out_pictures(images, 0, VALIDATION_IMAGES)
    with ImagePool(images, drawers) as pool:
        return fit(trainer, pool, held_out, out / CHECKPOINT, save_every=save_every, listener=log)


def held_out_pictures(images: Collection, first: int, count: int) -> Tensor:
    """Return synthetic pictures (count, 3, s, s) in [-1, 1] that no training sees, s at most
    LARGEST_SIDE.
    """
    side = min(LARGEST_SIDE, images.side)
    pictures = [images.held_out(i)[:, :side, :side] for i in range(first, first + count)]
    return torch.from_numpy(to_unit(np.stack(pictures)))


def export(out: Path, path: Path) -> int:
    """Write the best moving average that `out` holds as a float16 prior file; return the step that
    it was taken at.
    """
    spec = json.loads(read_state(out / CHECKPOINT)["spec"])
    images = Collection(
        directory=out, seed=spec["seed"], side=spec["image_side"], shard_images=1, shards=1
    )
    held_out = held_out_pictures(images, 0, VALIDATION_IMAGES)
    metadata = export_prior(out / CHECKPOINT, path, held_out, domain_pictures(images), SYNTHETIC)
    return int(json.loads(metadata["training"])["step"])


def domain_pictures(images: Collection) -> Tensor:
    """Return the held-out pictures that stand for what a prior of synthetic images knows."""
    return held_out_pictures(images, VALIDATION_IMAGES, DOMAIN_IMAGES)


def mix(first: Path, second: Path, out: Path) -> None:
    """Write the average of two priors of one shape, which restores better than either (weight
    averaging).

    Fine-tuning stays in one basin of the loss, so the middle of its path is a network too (Wortsman
    et al. 2022).
    """
    config, a = read_prior(first)
    other, b = read_prior(second)
    if config != other:
        raise ValueError(
            f"{first} holds {config}, {second} {other}; only networks of one shape have an average"
        )
    tensors = {key: ((value.float() + b[key].float()) / 2).half() for key, value in a.items()}
    kept = [read_metadata(path) for path in (first, second)]
    training = [
        json.loads(metadata.get("training", "{}")) | {"file": path.name}
        for metadata, path in zip(kept, (first, second), strict=True)
    ]
    metadata = kept[1] | {"training": json.dumps({"average_of": training})}
    images = PRESETS["builtin"].collection(out.parent)
    held_out = held_out_pictures(images, 0, VALIDATION_IMAGES)
    figures = measured(config, tensors, held_out, domain_pictures(images))
    write_prior(out, tensors, metadata | figures)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.training.command", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command")
    exporting = commands.add_parser("export", help="write the trained prior as float16 safetensors")
    exporting.add_argument("directory", type=Path)
    exporting.add_argument("file", type=Path)
    mixing = commands.add_parser("mix", help="average two priors of one shape")
    for name in ("first", "second", "file"):
        mixing.add_argument(name, type=Path)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="builtin")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="directory of checkpoint, log and drawn images")
    parser.add_argument(
        "--steps", type=int, help="last step; on a resume the learning rate follows the new cosine"
    )
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--init", default="", help="prior file to start from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the network on a CPU")
    parser.add_argument("--drawers", type=int, default=1, help="processes that draw images")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "export":
        step = export(options.directory, options.file)
        print(f"{options.file}: step {step}")
        return 0
    if options.command == "mix":
        mix(options.first, options.second, options.file)
        return 0
    if options.out is None:
        parser.error("--out is needed: the directory of checkpoint, log and drawn images")
    chosen = {"steps": options.steps, "learning_rate": options.learning_rate}
    changes = {name: value for name, value in chosen.items() if value is not None}
    spec = replace(PRESETS[options.preset], seed=options.seed, init=options.init, **changes)
    prepare_processor(options.threads)
    train(
        spec,
        options.out,
        device=options.device,
        drawers=options.drawers,
        listener=_print_validation,
    )
    return 0


def prepare_processor(threads: int) -> None:
    """Set the threads of this process for training."""
    torch.set_num_threads(threads)
    # Small activations become denormal late in training, and then cost ten times as much.
    torch.set_flush_denormal(True)


def _print_validation(progress: Progress) -> None:
    if progress.psnr:
        figures = " / ".join(f"{value:.2f}" for value in progress.psnr)
        print(
            f"step {progress.step}: loss {progress.loss:.4f}, validation {figures} dB", flush=True
        )


if __name__ == "__main__":
    raise SystemExit(main())
