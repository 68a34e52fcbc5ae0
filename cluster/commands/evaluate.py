"""The command `evaluate`: what a prior is worth on images that it never saw."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.options.arguments import Quiet
from orchestrator.errors import PlanError
from orchestrator.job.tasks import registry

TRIAL_NAMES = ",".join(registry.trials())

Prior = Annotated[str, typer.Argument(help="A .safetensors prior, or any denoiser as for restore.")]
Images = Annotated[
    list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="Clean test images.")
]
MoreImages = Annotated[list[Path] | None, typer.Option("--images", help="The same, as an option.")]
OutFolder = Annotated[Path, typer.Option(help="Folder for table, contact sheet and figures.")]
Beside = Annotated[
    list[str] | None, typer.Option("--beside", help="Another prior to compare; may repeat.")
]
TrialNames = Annotated[str, typer.Option(help="What to try, with commas.")]
Seeds = Annotated[int, typer.Option(help="Seeds, where anything is random.", min=1)]
Side = Annotated[
    int, typer.Option(help="Side of the middle that is tried, px; 0: whole images.", min=0)
]
Intent = Annotated[str | None, typer.Option(help="As for restore.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT's files.")]


def evaluate(
    prior: Prior,
    images: Images = None,
    more: MoreImages = None,
    out: OutFolder = Path("evaluation"),
    beside: Beside = None,
    trials: TrialNames = TRIAL_NAMES,
    seeds: Seeds = 3,
    side: Side = 256,
    intent: Intent = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Degrade clean images in seven ways, and restore them with PRIOR and with what needs none."""
    paths = (*(images or ()), *(more or ()))
    if not paths:
        raise PlanError("no images named; usage: gigarestore evaluate PRIOR --images IMAGES...")
    names = tuple(trials.split(","))
    unknown = [name for name in names if name not in registry.trials()]
    if unknown:
        raise PlanError(f"unknown trial {unknown[0]!r}; choose from {TRIAL_NAMES}")
    if (out / "evaluation.json").exists() and not overwrite:
        raise PlanError(
            f"{out} holds an evaluation; choose another --out, or --overwrite to replace it"
        )
    from cluster.evaluation.evaluation_run import EvaluationRequest, run_evaluation

    request = EvaluationRequest(
        priors=tuple(dict.fromkeys(_reference(name) for name in (prior, *(beside or ())))),
        images=paths,
        trials=names,
        seeds=seeds,
        side=side,
        intent=intent,
        out=out,
    )
    evaluation = run_evaluation(request, _nothing if quiet else _say)
    print(evaluation.write(), end="")
    print(f"files: {out / 'table.md'}, {out / 'contact.png'}, {out / 'evaluation.json'}")


def _reference(name: str) -> str:
    """Return a prior's file as the denoiser that it is; anything else as it stands."""
    return f"prior:{name}" if name.endswith(".safetensors") and ":" not in name else name


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _nothing(_text: str) -> None:
    pass
