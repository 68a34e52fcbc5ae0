"""The noise that a job states, against what its input says: estimated where the user asks for it,
checked where the user states it.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.errors import PlanError
from orchestrator.job.fields.noise_option import TO_BE_FITTED, fitted, noise_model, read_noise
from orchestrator.job.fields.sections import AUTO, InputSpec, TaskFields
from orchestrator.job.inputs import InputFacts, NoiseSurvey
from orchestrator.job.tasks.task import Task
from orchestrator.job.value_range import Values, stated_values
from orchestrator.measurement.noise_survey import excess_of_model, fit_counts, survey_noise

LEAST = 0.4
"""Noise of whole numbers below this is that of rounding them, which is 0.29 levels."""
MOST = 1 / 3
"""Share of the range that noise may have as its standard deviation."""
FAR = 2.0
"""Factor between a given level and the estimate from which they are not the same noise."""
FAR_MODEL = 1.6
"""Factor by which a model's noise may be above that of the image. A gain that was turned upside
down is found from 2.6, and looks that are wrong by as much."""
MOST_TEXTURE = 0.1
"""Share of the range that the texture of an image does not reach."""
MOST_JPEG = 0.03
"""Share of the range by which a level may be above the noise, for what a codec has left."""
DIGITS = 4
"""Significant digits of an estimate: more than it is worth, so that a job file can be read."""


def resolve_noise(
    task: TaskFields, source: InputSpec, kind: type[Task], files: InputFacts
) -> tuple[TaskFields, InputFacts]:
    """Return the task with the level of its noise, and the facts with what was found.

    source: the input with its facts, black and white too. Raises PlanError where there is no noise
    to be found, or more than the range has room for.
    """
    if not task.noisy:
        return task, files
    assert source.dtype is not None, "the input's facts are known"
    if task.noise == TO_BE_FITTED:
        task, files = _with_fitted(task, source, files)
    elif task.noise is not None:
        survey = NoiseSurvey(asked=False, warning=unlike(task.noise, source))
        files = replace(files, noise=survey)
    values = Values.build(source.dtype, stated_values(source.values), noise_model(task))
    if task.noise is not None:
        check_model(task.noise, values)
        return task, files
    survey = survey_noise(source, grey=kind.grey)
    if task.noise_from == AUTO:
        task = _with_estimate(task, source, kind, survey)
        check_level(task.sigma, values)
        return task, replace(files, noise=survey)
    level = task.sigma * (values.levels if task.sigma_unit == "fraction" else 1.0)
    check_level(level, values)
    survey = replace(survey, asked=False, warning=far_from(level, survey.largest, values))
    return task, replace(files, noise=survey)


def check_level(level: float, values: Values) -> None:
    """Raise PlanError for noise, grey levels, that leaves nothing of the range to see."""
    if level > values.levels * MOST:
        raise PlanError(
            f"--sigma {level:g} is {level / values.levels:.0%} of the range {values.low:g} to "
            f"{values.high:g}, at most a third can be restored; --sigma auto estimates the level"
        )


def check_model(noise: str, values: Values) -> None:
    """Raise PlanError for a model whose noise leaves nothing of the range to see."""
    share = values.noise_deviation / 2
    if share > MOST:
        raise PlanError(
            f"--noise {noise} is {share:.0%} of the range {values.low:g} to {values.high:g} on its "
            "own scale, at most a third can be restored; give a wider --range LOW,HIGH, or another "
            "model"
        )


def unlike(noise: str, source: InputSpec) -> str | None:
    """Say that a model makes more noise than the image shows; None where it may be right.

    Texture passes for noise, so that more noise than that of the model says nothing.
    """
    model = read_noise(noise)
    assert model is not None, "a model that is to be fitted cannot be wrong"
    ratio = excess_of_model(source, model)
    if ratio is None or ratio <= FAR_MODEL:
        return None
    hint = "GAIN is in stored values per photon" if noise.startswith("poisson") else "check LOOKS"
    return f"--noise {noise} makes {ratio:.1f} times the noise that the image shows; {hint}"


def far_from(level: float, found: float | None, values: Values) -> str | None:
    """Say that a given level, grey levels, is not that of the image; None where it may be.

    Fine texture passes for noise: of 53 images without, the strongest showed 7 % of their range.
    So a level is called too small only where more is found than texture gives.
    """
    if found is None:
        return None
    too_large = level > FAR * found and level - found > MOST_JPEG * values.levels
    too_small = found > FAR * level and found > MOST_TEXTURE * values.levels
    if not (too_large or too_small):
        return None
    times = f"{level / found:.1f} times" if found > 0 else "above"
    return (
        f"--sigma {level:g} is {times} the noise that the image shows, about {found:.3g} grey "
        "levels; --sigma auto takes what it shows"
    )


def _with_estimate(
    task: TaskFields, source: InputSpec, kind: type[Task], survey: NoiseSurvey
) -> TaskFields:
    level = survey.largest
    if level is None:
        raise PlanError(f"--sigma auto: the noise of {source.path} {survey}; give --sigma LEVELS")
    rounding = LEAST if source.dtype != "float32" else 0.0
    if level <= rounding:
        if kind.starts_at_its_noise:
            raise PlanError(
                f"{source.path} has no noise to remove: about {level:.2g} grey levels; "
                "give --sigma LEVELS if you know better"
            )
        level = 0.0
    found = {"sigma": float(f"{level:.{DIGITS}g}"), "noise_from": "estimated"}
    return task.model_copy(update=found)


def _with_fitted(
    task: TaskFields, source: InputSpec, files: InputFacts
) -> tuple[TaskFields, InputFacts]:
    counts = fit_counts(source)
    if counts is None:
        raise PlanError(
            f"--noise {TO_BE_FITTED}: {source.path} shows no noise that grows with the brightness; "
            "give --noise poisson:GAIN,READ or --sigma LEVELS"
        )
    model = fitted(counts)
    found = task.model_copy(update={"noise": model, "noise_from": "estimated"})
    return found, replace(files, noise=NoiseSurvey(model=model))
