"""The noise that a job states, against what its input says: estimated where the user asks for it,
checked where the user states it.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.errors import PlanError
from orchestrator.job.fields.noise import TO_BE_FITTED, fitted
from orchestrator.job.fields.sections import AUTO, InputSpec, TaskFields
from orchestrator.job.inputs import InputFacts, NoiseSurvey
from orchestrator.job.tasks.task import Task
from orchestrator.measurement.noise_survey import fit_counts, survey_noise

LEAST = 0.4
"""Noise of whole numbers below this is that of rounding them, which is 0.29 levels."""
DIGITS = 4
"""Significant digits of an estimate: more than it is worth, so that a job file can be read."""


def resolve_noise(
    task: TaskFields, source: InputSpec, kind: type[Task], files: InputFacts
) -> tuple[TaskFields, InputFacts]:
    """Return the task with the level of its noise, and the facts with what was found.

    source: the input with its facts. Raises PlanError where there is none to be found.
    """
    if task.noise == TO_BE_FITTED:
        return _with_fitted(task, source, files)
    if task.noise_from != AUTO or task.noise is not None:
        return task, files
    survey = survey_noise(source, grey=kind.grey)
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
    return task.model_copy(update=found), replace(files, noise=survey)


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
