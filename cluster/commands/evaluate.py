"""The command `gigarestore evaluate`: tables and a contact sheet of what a prior is worth on images
that it never saw.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from orchestrator.errors import PlanError
from orchestrator.job.tasks import registry

if TYPE_CHECKING:
    from cluster.evaluation.trials import Score

TRIAL_NAMES = ",".join(registry.trials())
# Side of a picture on the contact sheet, px; images on it at most.
THUMB = 160
MOST_IMAGES = 4


def evaluate(
    prior: Annotated[
        str, typer.Argument(help="A .safetensors prior, or any denoiser as for restore.")
    ],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="Clean test images.")
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Option("--images", help="The same, as an option.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for table, contact sheet and figures.")] = Path(
        "evaluation"
    ),
    beside: Annotated[
        list[str] | None, typer.Option("--beside", help="Another prior to compare; may repeat.")
    ] = None,
    trials: Annotated[str, typer.Option(help="What to try, with commas.")] = TRIAL_NAMES,
    seeds: Annotated[int, typer.Option(help="Seeds, where anything is random.", min=1)] = 3,
    side: Annotated[
        int, typer.Option(help="Side of the middle that is tried, px; 0: whole images.", min=0)
    ] = 256,
    intent: Annotated[str | None, typer.Option(help="As for restore.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT's files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Degrade clean images in seven ways, restore them with PRIOR, and compare with what needs no
    prior.
    """
    from cluster.evaluation.trials import TRIALS, read_clean, run_trial

    paths = [*(images or []), *(more or [])]
    if not paths:
        raise PlanError("no images named; usage: gigarestore evaluate PRIOR --images IMAGES...")
    unknown = [name for name in trials.split(",") if name not in TRIALS]
    if unknown:
        raise PlanError(f"unknown trial {unknown[0]!r}; choose from {TRIAL_NAMES}")
    if (out / "evaluation.json").exists() and not overwrite:
        raise PlanError(
            f"{out} holds an evaluation; choose another --out, or --overwrite to replace it"
        )
    priors = list(dict.fromkeys(_reference(name) for name in [prior, *(beside or [])]))
    known = {name: refuse_seen(name, paths) for name in priors}

    scores: list[Score] = []
    rows: list[NDArray[np.uint8]] = []
    work = out / "work"
    for path in paths:
        clean = read_clean(path, side)
        for trial in (TRIALS[name] for name in trials.split(",")):
            if registry.TASKS[trial.task["name"]].grey and len(clean) == 1:
                continue
            varied = trial.random or intent == "detail"
            for seed in range(seeds if varied else 1):
                done = run_trial(trial, path.name, clean, priors, intent, seed, work)
                scores += done.scores
                if not quiet:
                    best = next(score for score in done.scores if score.method == priors[0])
                    print(
                        f"{path.name} {trial.name} seed {seed}: {best.psnr:.2f} dB",
                        file=sys.stderr,
                        flush=True,
                    )
                if seed == 0 and path in paths[:MOST_IMAGES]:
                    rows.append(_strip(list(done.pictures.values())))
    shutil.rmtree(work)
    text = table(scores, known)
    (out / "table.md").write_text(text, encoding="utf-8")
    _write_sheet(out / "contact.png", rows)
    facts = {
        "priors": known,
        "images": [path.name for path in paths],
        "side": side,
        "intent": intent,
    }
    document = {**facts, "summary": summary(scores), "scores": [asdict(score) for score in scores]}
    (out / "evaluation.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(text, end="")
    print(f"files: {out / 'table.md'}, {out / 'contact.png'}, {out / 'evaluation.json'}")


def _reference(name: str) -> str:
    return f"prior:{name}" if name.endswith(".safetensors") and ":" not in name else name


def refuse_seen(ref: str, paths: Sequence[Path]) -> str:
    """Raise PlanError where a prior was trained or validated on one of the images; return what is
    known of that.

    An image is recognised by its file, and by pixels that it shares with a training image
    (kernels.training.near_duplicates).
    """
    from cluster.training.training_images import image_landmarks
    from kernels.denoisers.info import BUILTIN_WEIGHTS, split_ref
    from kernels.denoisers.prior_metadata import read_metadata, read_record
    from kernels.training.near_duplicates import from_text, share_pixels
    from orchestrator.planning.fingerprint import content_hash
    from storage.readers.reader_registry import open_image

    try:
        scheme, place = split_ref(ref)
        if scheme not in ("builtin", "prior"):
            return "its training images are not known here: overlap with the test images was not checked"
        metadata = read_metadata(place or BUILTIN_WEIGHTS)
    except ValueError as err:
        raise PlanError(str(err)) from None
    seen = read_record(metadata, "seen")
    if not seen:
        return f"trained on {metadata.get('trained_on', 'what its file does not say')}"
    contents = {image["content"]: image["name"] for image in seen["images"]}
    marks = from_text(seen["landmarks"])
    for path in paths:
        if (content := content_hash(path)) in contents:
            raise PlanError(
                f"{path} is {contents[content]}, on which {ref} was trained; test on other images"
            )
        if share_pixels(marks, image_landmarks(open_image(path))):
            raise PlanError(
                f"{path} shares pixels with an image on which {ref} was trained; test on other images"
            )
    return f"trained on {len(contents)} images, none of which shares a file or pixels with the test images"


def summary(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Return means per trial and method, the standard error over images, and the deviation between
    seeds.
    """
    found = []
    for trial, method in dict.fromkeys((score.trial, score.method) for score in scores):
        group = [score for score in scores if (score.trial, score.method) == (trial, method)]
        images = list(dict.fromkeys(score.image for score in group))
        row: dict[str, Any] = {"trial": trial, "method": method, "images": len(images)}
        for figure in ("psnr", "ssim", "consistency", "seam"):
            values = [
                [getattr(score, figure) for score in group if score.image == image]
                for image in images
            ]
            means = np.array([np.mean(one) for one in values])
            row[figure] = float(means.mean())
            row[f"{figure}_se"] = (
                float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
            )
            row[f"{figure}_seed_sd"] = float(np.mean([np.std(one) for one in values]))
        row["seeds"] = len({score.seed for score in group})
        found.append(row)
    return [{key: None if value != value else value for key, value in row.items()} for row in found]


def table(scores: Sequence[Score], known: dict[str, str]) -> str:
    """Return the table as Markdown."""
    head = (
        "| trial | method | PSNR, dB | SSIM | RMS of A x - y | seam ratio | sd over seeds, dB |\n"
    )
    head += "|---|---|---|---|---|---|---|\n"
    lines = [
        f"| {row['trial']} | {row['method']} | {_with_error(row, 'psnr', 2)} | {_with_error(row, 'ssim', 4)} "
        f"| {row['consistency']:.2f} | {row['seam']:.2f} | "
        + (
            f"{row['psnr_seed_sd']:.3f} of {row['seeds']} |"
            if row["seeds"] > 1
            else "nothing random |"
        )
        for row in summary(scores)
    ]
    notes = [f"- {name}: {text}." for name, text in known.items()]
    return (
        head
        + "\n".join(lines)
        + "\n\nMean over images and its standard error.\n"
        + "\n".join(notes)
        + "\n"
    )


def _with_error(row: dict[str, Any], figure: str, digits: int) -> str:
    error = row[f"{figure}_se"]
    return f"{row[figure]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _strip(pictures: list[NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the middles of pictures of one scene side by side, the smaller ones enlarged by
    replication, RGB.
    """
    height = max(picture.shape[1] for picture in pictures)
    parts = []
    for picture in pictures:
        factor = height // picture.shape[1]
        large = picture.repeat(factor, 1).repeat(factor, 2)
        y, x = (max(length - THUMB, 0) // 2 for length in large.shape[1:])
        part = large[:3, y : y + THUMB, x : x + THUMB]
        part = np.repeat(part[:1], 3, 0) if len(part) < 3 else part
        parts.append(part if part.dtype == np.uint8 else (part >> 8).astype(np.uint8))
        parts.append(np.full((3, part.shape[1], 4), 255, np.uint8))
    return np.concatenate(parts[:-1], axis=2)


def _write_sheet(path: Path, strips: list[NDArray[np.uint8]]) -> None:
    """Write the strips below each other: measured, every prior, what needs none, original."""
    from storage.export.small_image import write_image

    height = max(strip.shape[1] for strip in strips)
    width = max(strip.shape[2] for strip in strips)
    padded = [
        np.pad(
            s, ((0, 0), (0, height + 4 - s.shape[1]), (0, width - s.shape[2])), constant_values=255
        )
        for s in strips
    ]
    write_image(path, np.concatenate(padded, axis=1))
