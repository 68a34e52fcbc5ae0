"""The command `train`: a prior from one's own clean images, or the built-in one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from cluster.options.arguments import Quiet
from cluster.options.exit_codes import INTERRUPTED, fail
from cluster.options.parsers import parse_range
from cluster.terminal.progress import size
from cluster.terminal.training_progress import TrainingView
from cluster.training.training_run import TrainingRequest, train_prior
from orchestrator.errors import PlanError, RunError

Images = Annotated[
    list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="Clean images: any format.")
]
Prior = Annotated[
    Path, typer.Option(help="The prior to write, .safetensors; its card goes beside it.")
]
Preset = Annotated[
    str | None, typer.Option(help="Instead of IMAGES, drawn ones: builtin, builtin-large or smoke.")
]
Init = Annotated[
    Path | None, typer.Option(help="Prior to start from.", show_default="the built-in one")
]
FromScratch = Annotated[bool, typer.Option("--from-scratch", help="Start from random weights.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Steps = Annotated[
    int | None,
    typer.Option(help="Steps at most.", min=1, show_default="2000; 20000 from scratch"),
]
CropsPerStep = Annotated[
    int | None, typer.Option("--batch-size", help="Crops per step.", min=1, show_default="16")
]
OldCropsPerStep = Annotated[int | None, typer.Option("--batch", hidden=True, min=1)]
Crop = Annotated[
    int | None,
    typer.Option(help="Side of a crop, px; twice that towards the end.", min=16, show_default="64"),
]
LearningRate = Annotated[
    float | None, typer.Option(help="Highest rate.", show_default="2e-4; 8e-4 anew")
]
Every = Annotated[int, typer.Option(help="Steps between validations.", min=1)]
Patience = Annotated[
    int, typer.Option(help="Validations without gain until it stops; 0: never.", min=0)
]
ValueRange = Annotated[
    str | None,
    typer.Option(
        "--range",
        help="Stored values LOW,HIGH of black and white; auto or full, as for restore.",
        show_default="full for 8 bit, else auto",
    ),
]
Licence = Annotated[str, typer.Option(help="What the card says of the images' licence.")]
Device = Annotated[
    str, typer.Option(help="cpu or cuda.", show_default="the GPU where there is one")
]
Threads = Annotated[int, typer.Option(help="Threads of the network on a CPU.", min=1)]
CheckpointSeconds = Annotated[float, typer.Option(help="Seconds between checkpoints.", min=0)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")]


def train(
    images: Images = None,
    out: Prior = Path("prior.safetensors"),
    preset: Preset = None,
    init: Init = None,
    from_scratch: FromScratch = False,
    seed: Seed = 0,
    steps: Steps = None,
    batch_size: CropsPerStep = None,
    old_batch_size: OldCropsPerStep = None,
    crop: Crop = None,
    learning_rate: LearningRate = None,
    every: Every = 100,
    patience: Patience = 6,
    value_range: ValueRange = None,
    licence: Licence = "as that of the images",
    device: Device = "",
    threads: Threads = 1,
    checkpoint_seconds: CheckpointSeconds = 60.0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a prior on clean images; said again after any death, it goes on from its checkpoint."""
    chosen = {
        "steps": steps,
        "batch": batch_size or old_batch_size,
        "crop": crop,
        "learning_rate": learning_rate,
    }
    request = TrainingRequest(
        images=tuple(images or ()),
        out=out,
        preset=preset,
        init=init,
        from_scratch=from_scratch,
        seed=seed,
        changes={name: value for name, value in chosen.items() if value is not None},
        every=every,
        patience=patience,
        limits=parse_range(value_range) if value_range else None,
        licence=licence,
        save_every=checkpoint_seconds,
    )
    request.check(overwrite=overwrite)
    metadata = _train(request, device, threads, quiet)
    _print_trained(request, metadata)


def _train(request: TrainingRequest, device: str, threads: int, quiet: bool) -> dict[str, str]:
    """Train under the lock of the work folder, which is removed at the end."""
    from kernels.training.command import prepare_processor
    from storage.run_store.run_lock import RunLock

    work = request.work
    work.mkdir(parents=True, exist_ok=True)
    prepare_processor(threads)
    with RunLock(work / "lock"):
        try:
            with TrainingView(quiet) as view:
                metadata = train_prior(request, device or _best_device(), view)
        except KeyboardInterrupt:
            fail(f"interrupted; the same command goes on from {work}", INTERRUPTED)
        except ValueError as err:
            raise PlanError(str(err)) from None
        except RuntimeError as err:
            raise RunError(f"{err}; the same command goes on from {work}") from err
        shutil.rmtree(work)
    return metadata


def _print_trained(request: TrainingRequest, metadata: dict[str, str]) -> None:
    decibels = json.loads(metadata["validation"])["psnr"]
    figures = " / ".join(f"{value:.2f}" for value in decibels)
    print(
        f"{request.out}: {size(request.out.stat().st_size)}, validation {figures} dB at noise "
        f"13 / 32 / 64 of 255; card {request.card}"
    )


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
