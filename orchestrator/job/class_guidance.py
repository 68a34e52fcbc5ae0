"""Which class a run draws: the label of a conditional network, and a classifier that guides any
network.

One label serves both: `--class 207` conditions a class-conditional network, and with `--classifier
PATH` is the class whose probability the gradient raises. Nothing here imports torch before a
classifier is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.denoiser_registry import describe
from orchestrator.errors import PlanError
from orchestrator.job.spec import GuidanceSpec

if TYPE_CHECKING:
    from kernels.denoisers.guided_diffusion.checkpoints import ClassifierInfo
    from kernels.sampling.classifier_guidance import Guidance

USUAL_SCALE = 1.0


def describe_network(ref: str, guidance: GuidanceSpec) -> DenoiserInfo:
    """Describe a denoiser with the class it is to draw; errors as of
    `kernels.denoisers.denoiser_registry.describe`.
    """
    return describe(ref, network_label(ref, guidance))


def network_label(ref: str, guidance: GuidanceSpec) -> int | None:
    """Return the class to load a denoiser with: None where only the classifier knows classes."""
    if guidance.classifier is not None:
        try:
            describe(ref, guidance.label)
        except ValueError:
            return None
    return guidance.label


def resolve_guidance(given: GuidanceSpec, denoiser: DenoiserInfo) -> GuidanceSpec:
    """Check a classifier against class and network, and fill the scale; raises PlanError on one
    line.
    """
    if given.classifier is None:
        if given.scale is not None:
            raise PlanError(
                "--guidance is the factor of a classifier's gradient; give --classifier PATH too"
            )
        return given
    classifier = describe_guide(given.classifier)
    if given.label is None or given.label >= classifier.classes:
        what = "none was given" if given.label is None else f"{given.label} was given"
        raise PlanError(
            f"{classifier.name} needs a class, {what}: give --class N from 0 to "
            f"{classifier.classes - 1}"
        )
    if (classifier.channels, classifier.n_timesteps) != (denoiser.channels, denoiser.n_timesteps):
        raise PlanError(
            f"{classifier.name} is for {classifier.channels} channels and "
            f"{classifier.n_timesteps} timesteps, "
            f"{denoiser.name} has "
            f"{denoiser.channels} and {denoiser.n_timesteps}; choose a classifier of the same "
            "family"
        )
    return given.model_copy(
        update={"classifier": str(Path(given.classifier).absolute()), "scale": _scale(given)}
    )


def check_tile(given: GuidanceSpec, tile: int) -> None:
    """Raise PlanError where the classifier does not take tiles of this size."""
    if given.classifier is None:
        return
    classifier = describe_guide(given.classifier)
    if classifier.fixed_tile and tile != classifier.tile:
        raise PlanError(
            f"{classifier.name} takes tiles of {classifier.tile} px only, found --tile {tile}; "
            "give --tile "
            f"{classifier.tile}"
        )
    if tile % classifier.multiple:
        raise PlanError(
            f"{classifier.name} takes tiles in multiples of {classifier.multiple} px, found "
            f"--tile {tile}"
        )


def describe_guide(path: str) -> ClassifierInfo:
    """Describe a classifier; raises PlanError on one line."""
    from kernels.denoisers.guided_diffusion.checkpoints import describe_classifier

    try:
        return describe_classifier(path)
    except ValueError as err:
        raise PlanError(str(err)) from None


def guidance_marks(given: GuidanceSpec) -> dict[str, Any]:
    """Return what of the guidance decides pixels, for the fingerprint: the classifier by its
    content.
    """
    content = None if given.classifier is None else describe_guide(given.classifier).content
    return {
        "guidance.label": given.label,
        "guidance.scale": given.scale,
        "guidance.classifier": content,
    }


@dataclass(frozen=True, slots=True)
class ClassGuide:
    """A loaded classifier with the class that it pulls every tile towards."""

    classifier: Any
    label: int
    classes: int
    scale: float

    @classmethod
    def load(cls, given: GuidanceSpec, device: str) -> ClassGuide | None:
        """Load the classifier of a resolved guidance; None without one."""
        if given.classifier is None:
            return None
        from kernels.denoisers.guided_diffusion.checkpoints import load_classifier

        assert given.label is not None, "resolve_guidance() checks the label"
        assert given.scale is not None, "resolve_guidance() fills the scale"
        return cls(
            load_classifier(given.classifier, device),
            given.label,
            describe_guide(given.classifier).classes,
            given.scale,
        )

    def batch(self, tiles: int) -> Guidance:
        """Return the guidance of a batch of tiles, all towards the same class."""
        from kernels.sampling.classifier_guidance import classifier_guidance

        return classifier_guidance(self.classifier, [self.label] * tiles, self.classes, self.scale)


def _scale(given: GuidanceSpec) -> float:
    return USUAL_SCALE if given.scale is None else given.scale
