"""An evaluation: every trial of every image, with its scores and pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.evaluation.contact_sheet import MOST_IMAGES, strip_of, write_sheet
from cluster.evaluation.score_table import summary, table
from cluster.evaluation.seen_images import refuse_seen
from cluster.evaluation.trials import TRIALS, Score, read_clean, run_trial
from orchestrator.job.tasks import registry

if TYPE_CHECKING:
    from cluster.evaluation.trials import Pixels
    from orchestrator.job.tasks.task import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What is tried with what."""

    priors: tuple[str, ...]
    """The one that is evaluated, then those beside it."""
    images: tuple[Path, ...]
    trials: tuple[str, ...]
    seeds: int
    """Seeds, where anything is random."""
    side: int
    """Side of the middle that is tried, px; 0: whole images."""
    intent: str | None
    out: Path

    def trials_of(self, clean: Pixels) -> Iterator[tuple[Trial, int]]:
        """Yield the trials of an image (C, H, W), each with its seeds; a grey image is not made
        grey.
        """
        for trial in (TRIALS[name] for name in self.trials):
            if registry.TASKS[trial.task["name"]].grey and len(clean) == 1:
                continue
            varied = trial.random or self.intent == "detail"
            for seed in range(self.seeds if varied else 1):
                yield trial, seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came of it."""

    request: EvaluationRequest
    known: dict[str, str]
    """Of each prior, what is known of its training images."""
    scores: list[Score] = field(default_factory=list)
    strips: list[NDArray[np.uint8]] = field(default_factory=list)

    def write(self) -> str:
        """Write table, contact sheet and figures into the folder; return the table."""
        out = self.request.out
        text = table(self.scores, self.known)
        document = {
            "priors": self.known,
            "images": [path.name for path in self.request.images],
            "side": self.request.side,
            "intent": self.request.intent,
            "summary": summary(self.scores),
            "scores": [asdict(score) for score in self.scores],
        }
        (out / "table.md").write_text(text, encoding="utf-8")
        write_sheet(out / "contact.png", self.strips)
        (out / "evaluation.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        return text


def run_evaluation(request: EvaluationRequest, say: Callable[[str], None]) -> Evaluation:
    """Try everything; `say` is told what each trial scored. Raises PlanError for an image that a
    prior was trained on.
    """
    known = {name: refuse_seen(name, request.images) for name in request.priors}
    evaluation = Evaluation(request=request, known=known)
    work = request.out / "work"
    for path in request.images:
        clean = read_clean(path, request.side)
        for trial, seed in request.trials_of(clean):
            restored = run_trial(
                trial, path.name, clean, request.priors, request.intent, seed, work
            )
            evaluation.scores.extend(restored.scores)
            own = next(s for s in restored.scores if s.method == request.priors[0])
            say(f"{path.name} {trial.name} seed {seed}: {own.psnr:.2f} dB")
            if seed == 0 and path in request.images[:MOST_IMAGES]:
                evaluation.strips.append(strip_of(list(restored.pictures.values())))
    shutil.rmtree(work)
    return evaluation
