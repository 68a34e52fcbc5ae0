"""One training from what was asked for to the prior and its card: on one's own images, or on drawn
ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import Range

if TYPE_CHECKING:
    import torch

    from cluster.terminal.training_progress import TrainingView
    from cluster.training.training_images import TrainingImages
    from kernels.training.recipe import TrainingSpec

PRESET_NAMES = ("builtin", "builtin-large", "smoke")
# Validation crops, and others from the same held-out parts for the statistics of the domain.
VALIDATION_CROPS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What is to be trained, and how."""

    images: tuple[Path, ...]
    """One's own; none with a preset."""
    out: Path
    preset: str | None
    init: Path | None
    """The prior to start from; None: the built-in one."""
    from_scratch: bool
    seed: int
    changes: Mapping[str, int | float]
    """Fields of the recipe that were given."""
    every: int
    """Steps between validations."""
    patience: int
    """Validations without gain until it stops; 0: never."""
    limits: Range | str | None
    """Stored values of black and white, auto or full; None: as `restore` finds them."""
    licence: str
    save_every: float
    """Seconds between checkpoints."""

    @property
    def work(self) -> Path:
        """The folder of checkpoints and staged images, which goes at the end."""
        return self.out.with_name(self.out.name + ".training")

    @property
    def card(self) -> Path:
        """The model card, beside the prior."""
        return self.out.with_suffix(".md")

    def check(self, *, overwrite: bool) -> None:
        """Raise PlanError, one line, on what cannot be meant."""
        if self.preset is None and not self.images:
            raise PlanError(
                "no images named; usage: gigarestore train IMAGES... --out prior.safetensors, or "
                "--preset builtin"
            )
        if self.preset is not None and self.images:
            raise PlanError(
                f"--preset {self.preset} draws its own images; leave IMAGES or --preset out"
            )
        if self.preset is not None and self.preset not in PRESET_NAMES:
            raise PlanError(f"unknown preset {self.preset!r}; choose {', '.join(PRESET_NAMES)}")
        if self.from_scratch and self.init is not None:
            raise PlanError("--from-scratch starts from no prior; leave it or --init out")
        if self.out.suffix != ".safetensors":
            raise PlanError(
                f"{self.out}: a prior is a .safetensors file; choose --out "
                f"{self.out.stem}.safetensors"
            )
        if self.out.exists() and not overwrite:
            raise PlanError(
                f"{self.out} exists; choose another --out, or --overwrite to replace it"
            )


def train_prior(request: TrainingRequest, device: str, view: TrainingView) -> dict[str, str]:
    """Train, and write prior and card; return the prior's metadata.

    Goes on from a checkpoint in the work folder. Raises ValueError for images or a recipe other
    than the checkpoint's.
    """
    from cluster.training.model_card import write_card

    if request.preset is not None:
        metadata = _train_on_drawn(request, request.preset, device, view)
    else:
        metadata = _train_on_own(request, device, view)
    write_card(request.card, metadata)
    return metadata


def _train_on_drawn(
    request: TrainingRequest, preset: str, device: str, view: TrainingView
) -> dict[str, str]:
    """Train a preset on synthetic images; return the prior's metadata."""
    from kernels.denoisers.prior_metadata import read_metadata
    from kernels.training.command import export, train
    from kernels.training.recipe import PRESETS

    recipe = replace(PRESETS[preset], seed=request.seed)
    spec: TrainingSpec = replace(recipe, **request.changes)  # type: ignore[arg-type]
    train(
        spec, request.work, device=device, drawers=1, save_every=request.save_every, listener=view
    )
    export(request.work, request.out)
    return read_metadata(request.out)


def _train_on_own(request: TrainingRequest, device: str, view: TrainingView) -> dict[str, str]:
    """Train on one's own images; return the prior's metadata."""
    from kernels.training.command import CHECKPOINT
    from kernels.training.prior_file import export_prior
    from kernels.training.trainer import Trainer, fit

    own = _open_own(request)
    spec = _own_spec(request, own)
    view.say(f"{len(own.pictures)} images, {own.channels} channels; validation {own.split}")

    checkpoint = request.work / CHECKPOINT
    trainer = Trainer(spec, device)
    if checkpoint.exists():
        trainer.restore(checkpoint)
        view.say(f"resuming at step {trainer.step}")

    validation = _held_out_crops(own, spec, stream=0)
    fit(
        trainer,
        own.train,
        validation,
        checkpoint,
        every=request.every,
        patience=request.patience,
        save_every=request.save_every,
        listener=view,
    )
    for_statistics = _held_out_crops(own, spec, stream=1)
    extra = _what_was_seen(own, request.licence)
    return export_prior(checkpoint, request.out, validation, for_statistics, extra)


def _open_own(request: TrainingRequest) -> TrainingImages:
    """Open the images with the channels of the network that the training starts from."""
    from cluster.training.training_images import open_training_images

    channels = None
    if not request.from_scratch:
        from kernels.denoiser_info import BUILTIN_WEIGHTS
        from kernels.denoisers.builtin import describe_prior

        channels = describe_prior(request.init or BUILTIN_WEIGHTS).channels
    return open_training_images(
        request.images, request.work, request.seed, channels, request.limits
    )


def _own_spec(request: TrainingRequest, own: TrainingImages) -> TrainingSpec:
    """Return the recipe; fine-tuning takes the network's shape from the prior that it starts
    from.
    """
    from kernels.denoiser_info import BUILTIN_WEIGHTS
    from kernels.denoisers.builtin import read_prior
    from kernels.training.recipe import FINE_TUNING, FROM_SCRATCH

    if request.from_scratch:
        recipe = FROM_SCRATCH
        start = ""
        config = replace(recipe.config, image_channels=own.channels)
    else:
        recipe = FINE_TUNING
        start = str(request.init or BUILTIN_WEIGHTS)
        config, _ = read_prior(Path(start))
    contents = tuple(picture.content for picture in own.pictures)
    recipe = replace(recipe, seed=request.seed, data=contents, config=config, init=start)
    spec = replace(recipe, **request.changes)  # type: ignore[arg-type]

    if spec.crop % config.multiple:
        raise PlanError(
            f"--crop {spec.crop} is not a multiple of {config.multiple} px, which the network needs"
        )
    return spec


def _held_out_crops(own: TrainingImages, spec: TrainingSpec, *, stream: int) -> torch.Tensor:
    """Return crops (N, C, side, side) of the parts that are not trained on; other ones for every
    stream.
    """
    import numpy as np
    import torch

    rng = np.random.default_rng([spec.seed, 4, stream])
    crops = [own.validation.crop(rng, 1, 2 * spec.crop) for _ in range(VALIDATION_CROPS)]
    return torch.from_numpy(np.stack(crops))


def _what_was_seen(own: TrainingImages, licence: str) -> dict[str, str]:
    """Return the metadata by which `evaluate` refuses images that were trained on."""
    from kernels.training.near_duplicates import to_text

    seen = {
        "images": [picture.describe() for picture in own.pictures],
        "split": own.split,
        "landmarks": to_text(own.hashes()),
    }
    return {
        "trained_on": f"{len(own.pictures)} images of the user's own",
        "license": licence,
        "seen": json.dumps(seen),
    }
