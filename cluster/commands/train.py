"""The command `gigarestore train`: a prior from one's own clean images, or the built-in one from
drawn images.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.options.parsers import parse_range
from cluster.terminal.progress import size
from cluster.terminal.training_progress import TrainingView
from orchestrator.errors import PlanError, RunError

if TYPE_CHECKING:
    from cluster.training.training_images import TrainingImages
    from kernels.training.recipe import TrainingSpec

PRESET_NAMES = ("builtin", "builtin-large", "smoke")
# Validation crops, and others from the same held-out parts for the statistics of the domain.
VALIDATION_CROPS = 24


def train(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="Clean images: any format.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The prior to write, .safetensors; its card goes beside it.")
    ] = Path("prior.safetensors"),
    preset: Annotated[
        str | None,
        typer.Option(help="Instead of IMAGES, drawn ones: builtin, builtin-large or smoke."),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Prior to start from.", show_default="the built-in one")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps at most.", min=1, show_default="2000; 20000 from scratch"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Crops per step.", min=1, show_default="16")
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Side of a crop, px; twice that towards the end.", min=16, show_default="64"
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest rate.", show_default="2e-4; 8e-4 anew")
    ] = None,
    every: Annotated[int, typer.Option(help="Steps between validations.", min=1)] = 100,
    patience: Annotated[
        int, typer.Option(help="Validations without gain until it stops; 0: never.", min=0)
    ] = 6,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            help="Stored values LOW,HIGH of black and white.",
            show_default="the dtype's limits",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option(help="What the card says of the images' licence.")
    ] = "as that of the images",
    device: Annotated[
        str, typer.Option(help="cpu or cuda.", show_default="the GPU where there is one")
    ] = "",
    threads: Annotated[int, typer.Option(help="Threads of the network on a CPU.", min=1)] = 1,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Seconds between checkpoints.", min=0)
    ] = 60.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a prior on clean images; said again after any death, it goes on where the last
    checkpoint is.
    """
    _check(images, out, preset, init, from_scratch, overwrite)
    from kernels.training.command import prepare_processor
    from storage.run_store.run_lock import RunLock

    work = out.with_name(out.name + ".training")
    work.mkdir(parents=True, exist_ok=True)
    chosen = {"steps": steps, "batch": batch, "crop": crop, "learning_rate": learning_rate}
    changes = {name: value for name, value in chosen.items() if value is not None}
    prepare_processor(threads)
    device = device or _best_device()
    with RunLock(work / "lock"):
        try:
            with TrainingView(quiet) as view:
                if preset is not None:
                    metadata = _train_on_drawn(
                        preset, seed, changes, out, work, device, checkpoint_seconds, view
                    )
                else:
                    own = _open_own(images or [], work, seed, init, from_scratch, value_range)
                    spec = _own_spec(own, seed, init, from_scratch, changes)
                    view.say(
                        f"{len(own.pictures)} images, {own.channels} channels; validation {own.split}"
                    )
                    options = {
                        "every": every,
                        "patience": patience,
                        "save_every": checkpoint_seconds,
                    }
                    metadata = _train_on_own(own, spec, options, licence, out, work, device, view)
        except KeyboardInterrupt:
            print(
                f"gigarestore: interrupted; the same command goes on from {work}", file=sys.stderr
            )
            raise typer.Exit(130) from None
        except ValueError as err:
            raise PlanError(str(err)) from None
        except RuntimeError as err:
            raise RunError(f"{err}; the same command goes on from {work}") from err
        shutil.rmtree(work)
    figures = " / ".join(f"{value:.2f}" for value in json.loads(metadata["validation"])["psnr"])
    print(
        f"{out}: {size(out.stat().st_size)}, validation {figures} dB at noise 13 / 32 / 64 of 255; card {_card(out)}"
    )


def _check(
    images: list[Path] | None,
    out: Path,
    preset: str | None,
    init: Path | None,
    from_scratch: bool,
    overwrite: bool,
) -> None:
    """Refuse on one line what cannot be meant."""
    if preset is None and not images:
        raise PlanError(
            "no images named; usage: gigarestore train IMAGES... --out prior.safetensors, or --preset builtin"
        )
    if preset is not None and images:
        raise PlanError(f"--preset {preset} draws its own images; leave IMAGES or --preset out")
    if preset is not None and preset not in PRESET_NAMES:
        raise PlanError(f"unknown preset {preset!r}; choose {', '.join(PRESET_NAMES)}")
    if from_scratch and init is not None:
        raise PlanError("--from-scratch starts from no prior; leave it or --init out")
    if out.suffix != ".safetensors":
        raise PlanError(
            f"{out}: a prior is a .safetensors file; choose --out {out.stem}.safetensors"
        )
    if out.exists() and not overwrite:
        raise PlanError(f"{out} exists; choose another --out, or --overwrite to replace it")


def _card(out: Path) -> Path:
    return out.with_suffix(".md")


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _train_on_drawn(
    preset: str,
    seed: int,
    changes: dict[str, int | float],
    out: Path,
    work: Path,
    device: str,
    save_every: float,
    view: TrainingView,
) -> dict[str, str]:
    """Train a preset on synthetic images, and write prior and card; return the prior's metadata."""
    from cluster.training.model_card import write_card
    from kernels.denoisers.prior_metadata import read_metadata
    from kernels.training.command import export
    from kernels.training.command import train as train_on_drawn
    from kernels.training.recipe import PRESETS

    spec: TrainingSpec = replace(PRESETS[preset], seed=seed, **changes)  # type: ignore[arg-type]
    train_on_drawn(spec, work, device=device, drawers=1, save_every=save_every, listener=view)
    export(work, out)
    metadata = read_metadata(out)
    write_card(_card(out), metadata)
    return metadata


def _open_own(
    paths: list[Path],
    work: Path,
    seed: int,
    init: Path | None,
    from_scratch: bool,
    value_range: str | None,
) -> TrainingImages:
    """Open the images with the channels of the network that the training starts from."""
    from cluster.training.training_images import open_training_images

    channels = None
    if not from_scratch:
        from kernels.denoisers.builtin import describe_prior
        from kernels.denoisers.info import BUILTIN_WEIGHTS

        channels = describe_prior(init or BUILTIN_WEIGHTS).channels
    return open_training_images(
        paths, work, seed, channels, parse_range(value_range) if value_range else None
    )


def _own_spec(
    own: TrainingImages,
    seed: int,
    init: Path | None,
    from_scratch: bool,
    changes: dict[str, int | float],
) -> TrainingSpec:
    """Return the specification; fine-tuning takes the network's shape from the prior that it starts
    from.
    """
    from kernels.denoisers.builtin import read_prior
    from kernels.denoisers.info import BUILTIN_WEIGHTS
    from kernels.training.recipe import FINE_TUNING, FROM_SCRATCH

    data = tuple(picture.content for picture in own.pictures)
    if from_scratch:
        config = replace(FROM_SCRATCH.config, image_channels=own.channels)
        spec = replace(FROM_SCRATCH, seed=seed, data=data, config=config, **changes)  # type: ignore[arg-type]
    else:
        start = Path(init or BUILTIN_WEIGHTS)
        config, _ = read_prior(start)
        spec = replace(FINE_TUNING, seed=seed, data=data, config=config, init=str(start), **changes)  # type: ignore[arg-type]
    if spec.crop % config.multiple:
        raise PlanError(
            f"--crop {spec.crop} is not a multiple of {config.multiple} px, which the network needs"
        )
    return spec


def _train_on_own(
    own: TrainingImages,
    spec: TrainingSpec,
    options: dict[str, float],
    licence: str,
    out: Path,
    work: Path,
    device: str,
    view: TrainingView,
) -> dict[str, str]:
    """Train on one's own images, and write prior and card; return the prior's metadata."""
    import numpy as np
    import torch

    from cluster.training.model_card import write_card
    from kernels.training.command import CHECKPOINT
    from kernels.training.near_duplicates import to_text
    from kernels.training.prior_file import export_prior
    from kernels.training.trainer import Trainer, fit

    def held_out(stream: int) -> torch.Tensor:
        rng = np.random.default_rng([spec.seed, 4, stream])
        return torch.from_numpy(
            np.stack([own.validation.crop(rng, 1, 2 * spec.crop) for _ in range(VALIDATION_CROPS)])
        )

    trainer = Trainer(spec, device)
    if (work / CHECKPOINT).exists():
        trainer.restore(work / CHECKPOINT)
        view.say(f"resuming at step {trainer.step}")
    fit(
        trainer,
        own.train,
        held_out(0),
        work / CHECKPOINT,
        every=int(options["every"]),
        patience=int(options["patience"]),
        save_every=options["save_every"],
        listener=view,
    )
    seen = {
        "images": [picture.describe() for picture in own.pictures],
        "split": own.split,
        "landmarks": to_text(own.landmarks()),
    }
    extra = {
        "trained_on": f"{len(own.pictures)} images of the user's own",
        "license": licence,
        "seen": json.dumps(seen),
    }
    metadata = export_prior(work / CHECKPOINT, out, held_out(0), held_out(1), extra)
    write_card(_card(out), metadata)
    return metadata
