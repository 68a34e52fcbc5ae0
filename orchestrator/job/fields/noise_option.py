"""What --noise says: photon counts or speckle, whose noise depends on how bright a sample is.

A model brings stored values to a scale on which their noise has one deviation, whatever the
brightness, and restored ones back (kernels.noise_models).
"""

from __future__ import annotations

from kernels.noise_models.counts import CountNoise
from kernels.noise_models.speckle import SpeckleNoise
from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import AUTO, TaskFields

NoiseModel = CountNoise | SpeckleNoise

TO_BE_FITTED = "poisson:auto"
AMPLITUDE = "amplitude"
FORMS = "poisson:GAIN[,READ[,OFFSET]], poisson:auto, speckle:LOOKS or speckle:LOOKS,amplitude"


def read_noise(text: str) -> NoiseModel | None:
    """Read --noise; None: a model that is to be fitted. Raises PlanError on one line."""
    kind, _, rest = text.partition(":")
    if text == TO_BE_FITTED:
        return None
    words = rest.split(",")
    try:
        if kind == "poisson" and len(words) <= 3:
            return CountNoise(*map(float, words))
        if kind == "speckle":
            return _speckle(words)
    except ValueError as err:
        said = str(err) if "give" in str(err) else f"give {FORMS}"
        raise PlanError(f"--noise {text!r} is no model of noise: {said}") from None
    raise PlanError(f"--noise {text!r} is no model of noise: give {FORMS}")


def noise_model(task: TaskFields) -> NoiseModel | None:
    """Return the model of a task's noise; None without one, and before it is fitted."""
    return None if task.noise is None else read_noise(task.noise)


def fitted(noise: CountNoise) -> str:
    """Return a model of counts as --noise names it."""
    numbers = [noise.gain, noise.read, noise.offset]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return "poisson:" + ",".join(f"{number:.4g}" for number in numbers)


def check_noise(task: TaskFields) -> None:
    """Raise PlanError for options that cannot be together with --noise."""
    if task.noise is None:
        return
    read_noise(task.noise)
    if task.sigma > 0 or (task.noise_from == AUTO):
        raise PlanError("--sigma has no effect with --noise, which says what noise there is")
    if task.skip_flat is not None:
        raise PlanError(
            "--skip-flat counts grey levels, of which --noise makes another scale; leave one out"
        )


def _speckle(words: list[str]) -> SpeckleNoise:
    looks, *rest = words
    if rest not in ([], [AMPLITUDE]):
        raise ValueError(f"give {FORMS}")
    return SpeckleNoise(float(looks), amplitude=bool(rest))
