"""How a job's sampling is filled in: a preset, then rules in order, then what cannot be is refused.

A rule says when it holds, what it sets and why; a later one overrides an earlier one, and what the
user has set overrides them all. A refusal says when it holds and what the user reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kernels.denoiser_info import DenoiserInfo
from kernels.presets import (
    PAPER,
    PREDICTED,
    PREDICTED_SCALES,
    SCATTERED_GUIDED_START,
    SCATTERED_GUIDED_STEPS,
    SCATTERED_STARTS,
    STARTED_STEPS,
    Preset,
)
from kernels.sampling.method_registry import MethodInfo, describe_method
from orchestrator.errors import PlanError
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.spec import SamplingSpec
from orchestrator.job.tasks.task import Task

Intent = Literal["faithful", "detail", "paper"]
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the rules look at."""

    given: SamplingSpec
    """What the user has set."""
    intent: Intent
    network: DenoiserInfo
    task: Task
    noisy: bool
    """Whether the measurement has noise."""
    method: MethodInfo
    predicted: bool
    """Whether a network predicts where the task starts."""
    scatter: float | None = None
    """How scattered the known pixels are (orchestrator.job.inputs)."""

    @property
    def scattered_start(self) -> int | None:
        """Timestep at which to start where single pixels are missing; None: as ever."""
        filled = self.task.masked and self.task.scale == 1 and not self.noisy
        if self.scatter is None or not filled or self.intent != "faithful":
            return None
        starts = (start for most, start in SCATTERED_STARTS if self.scatter <= most)
        return next(starts, None)

    @property
    def guide_may_only_start(self) -> bool:
        """Whether a level is determined well enough not to be held to the coarser one."""
        return self.intent == "faithful" and self.task.enlarges and self.network.local

    @property
    def guide_only_starts(self) -> bool:
        return self.guide_may_only_start and self.given.guide in (None, "start")

    @property
    def invents_beside_pins(self) -> bool:
        """Whether tiles draw what is not measured, beside what their neighbours have drawn."""
        unmeasured = not self.task.measured or self.task.masked
        drawn = self.intent == "paper" and unmeasured and self.given.pixel_rules != FIRST
        return drawn and self.network.differentiable and not self.method.needs_gradient

    @property
    def hidden_singular_values(self) -> bool:
        """Whether the kernel of the task has no cheap singular value decomposition."""
        stencil = self.task.stencil
        return stencil is not None and not stencil.separable


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A change of the defaults."""

    when: Callable[[Case], bool]
    sets: Callable[[Case, Fields], Fields]
    """The fields that it sets, of the case and what is set so far."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A combination that cannot be."""

    when: Callable[[Case, SamplingSpec], bool]
    """Of the case and the sampling as it was filled in."""
    says: Callable[[Case, SamplingSpec], str]


RULES = (
    Rule(
        when=lambda case: not case.network.local,
        sets=lambda case, so_far: {"ensemble": "1"},
        why="upside down, a network that knows objects knows them no longer",
    ),
    Rule(
        when=lambda case: True,
        sets=lambda case, so_far: {"guide": "start" if case.guide_may_only_start else "constraint"},
        why="a network of texture makes more of exact means than of a coarser result",
    ),
    Rule(
        when=lambda case: case.guide_only_starts and not case.predicted,
        sets=lambda case, so_far: {"guided_steps": STARTED_STEPS},
        why="levels that are not held to the coarser one settle their own low frequencies",
    ),
    Rule(
        when=lambda case: case.intent != "paper",
        sets=lambda case, so_far: case.task.preset_changes,
        why="the task's own figures, measured for it; the paper has one setting for all",
    ),
    Rule(
        when=lambda case: case.scattered_start is not None,
        sets=lambda case, so_far: {
            "start": case.scattered_start,
            "guided_start": min(case.scattered_start or 1, SCATTERED_GUIDED_START),
            "guided_steps": SCATTERED_GUIDED_STEPS,
        },
        why="a spline through scattered pixels is closer than what an early start makes of it",
    ),
    Rule(
        when=lambda case: case.given.quality == "draft",
        sets=lambda case, so_far: {
            "steps": max(so_far["steps"] // 4, 1),
            "guided_steps": max(so_far["guided_steps"] // 2, 1),
        },
        why="a quarter of the steps, and half where the guide leaves less to decide",
    ),
    Rule(
        when=lambda case: case.given.start is not None,
        sets=lambda case, so_far: {"init": "bicubic", "guided_start": case.given.start},
        why="who states a start wants a warm one, on all levels",
    ),
    Rule(
        when=lambda case: case.given.steps is not None,
        sets=lambda case, so_far: {"guided_steps": case.given.steps},
        why="who states the steps means all levels",
    ),
    Rule(
        when=lambda case: True,
        sets=lambda case, so_far: {"form": _possible_form(case, so_far["form"])},
        why="not every method has the preset's form",
    ),
    Rule(
        when=lambda case: True,
        sets=lambda case, so_far: {"inverse": _usual_inverse(case)},
        why="the smooth inverse is no orthogonal projector, which noisy measurements and the other "
        "methods need; the paper's is replication",
    ),
    Rule(
        when=lambda case: True,
        sets=lambda case, so_far: {"clip": True, "ddnm_plus": "projector"},
        why="a clean estimate beyond black and white is none; noise is weighed where it is",
    ),
    Rule(
        when=lambda case: True,
        sets=lambda case, so_far: {"pins": "gradient" if case.invents_beside_pins else "replace"},
        why="where nothing is measured, a tile draws a picture of its own beside pins that only "
        "replace; where all is, replacing costs half and shows as little",
    ),
)

# Options that only one method knows.
METHOD_OPTIONS = {"zeta": "dps", "eta_b": "ddrm", "ilvr_stop": "ilvr"}


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _method_option(field: str, method: str) -> Refusal:
    """Refuse an option that another method than the chosen one knows."""
    return Refusal(
        when=lambda case, filled: (
            getattr(case.given, field) is not None and case.method.name != method
        ),
        says=lambda case, filled: (
            f"{_flag(field)} {getattr(case.given, field):g} has no effect with --method "
            f"{case.method.name}, only with {method}; leave it out"
        ),
    )


def _is_new(case: Case) -> bool:
    """Tell whether a user says what is given; the job of a run that goes on says everything."""
    return case.given.pixel_rules is None


REFUSALS = (
    *(_method_option(field, method) for field, method in METHOD_OPTIONS.items()),
    Refusal(
        when=lambda case, filled: (
            _is_new(case)
            and case.given.travel is not None
            and case.given.travel[1] > 1
            and case.given.travel[0] >= _most_steps(filled)
        ),
        says=lambda case, filled: (
            f"--travel {','.join(map(str, filled.travel or ()))} never jumps back in "
            f"{_most_steps(filled)} steps; give a LENGTH below {_most_steps(filled)}, "
            "or more --steps"
        ),
    ),
    Refusal(
        when=lambda case, filled: (
            _is_new(case) and case.given.eta is not None and filled.form == "posterior"
        ),
        says=lambda case, filled: (
            f"--eta {filled.eta} has no effect in form posterior; leave it out, or give --form eps"
        ),
    ),
    Refusal(
        when=lambda case, filled: (
            case.given.ddnm_plus == "scalar" and not (case.noisy and case.method.name == "ddnm")
        ),
        says=lambda case, filled: (
            f"--ddnm-plus scalar has no effect with --method {case.method.name}"
            f"{'' if case.noisy else ' without --sigma'}, only with ddnm and noise; leave it out"
        ),
    ),
    Refusal(
        when=lambda case, filled: filled.pins == "gradient" and case.method.needs_gradient,
        says=lambda case, filled: (
            f"--pins gradient has no effect with --method {case.method.name}, which follows the "
            "gradient everywhere; leave it out"
        ),
    ),
    Refusal(
        when=lambda case, filled: (
            case.given.inverse == "smooth" and (case.noisy or case.given.method != "ddnm")
        ),
        says=lambda case, filled: (
            "the smooth inverse serves method ddnm and noise-free measurements only; "
            "leave --inverse out"
        ),
    ),
    Refusal(
        when=lambda case, filled: (
            case.method.takes == "mask" and not (case.task.masked and not case.task.scaled)
        ),
        says=lambda case, filled: (
            f"method {case.method.name} restores masked pixels only, not task {case.task.name}; "
            "use --task inpaint"
        ),
    ),
    Refusal(
        when=lambda case, filled: case.method.takes == "spectral" and case.hidden_singular_values,
        says=lambda case, filled: (
            f"method {case.method.name} needs singular values, which this kernel hides; "
            "use --method ddnm"
        ),
    ),
    Refusal(
        when=lambda case, filled: (
            case.method.name == "pigdm" and case.noisy and case.hidden_singular_values
        ),
        says=lambda case, filled: (
            "method pigdm needs singular values for a noisy measurement; "
            "use --method ddnm with this kernel"
        ),
    ),
    Refusal(
        when=lambda case, filled: filled.form not in case.method.forms,
        says=lambda case, filled: (
            f"method {case.method.name} has no form {filled.form}; leave --form out"
        ),
    ),
    Refusal(
        when=lambda case, filled: _start_beyond(case, filled) is not None,
        says=lambda case, filled: (
            f"--start {_start_beyond(case, filled)} is beyond the last timestep of "
            f"{case.network.name}; choose 1 to {case.network.n_timesteps - 1}"
        ),
    ),
)


def resolve_sampling(
    given: SamplingSpec,
    network: DenoiserInfo,
    task: Task,
    noisy: bool,
    scatter: float | None = None,
) -> SamplingSpec:
    """Return the sampling with every field set; raises PlanError on one line.

    scatter: how scattered the known pixels are, where a task fills some.
    """
    intent = given.intent or _usual_intent(given, network)
    predicted = intent == "faithful" and _predicted(network, task, given, noisy)
    case = Case(
        given=given if predicted else given.unpredicted(),
        intent=intent,
        network=network,
        task=task,
        noisy=noisy,
        method=describe_method(given.method),
        predicted=predicted,
        scatter=scatter,
    )
    defaults = _preset_fields(_preset(case)) | {"intent": intent}
    for rule in RULES:
        if rule.when(case):
            defaults |= rule.sets(case, defaults)
    unset = {k: value for k, value in defaults.items() if getattr(case.given, k) is None}
    filled = case.given.model_copy(update=unset)
    for refusal in REFUSALS:
        if refusal.when(case, filled):
            raise PlanError(refusal.says(case, filled))
    return filled


def _most_steps(filled: SamplingSpec) -> int:
    """Return the steps of the level that has most."""
    return max(steps for steps in (filled.steps, filled.guided_steps) if steps is not None)


def _usual_intent(given: SamplingSpec, network: DenoiserInfo) -> Intent:
    if given.quality == "paper" or not network.local:
        return "paper"
    return "faithful" if given.method == "ddnm" else "detail"


def _predicted(network: DenoiserInfo, task: Task, given: SamplingSpec, noisy: bool) -> bool:
    """Tell whether a network predicts where the task starts: enlargement of exact means, by what it
    was trained for.
    """
    pooled = task.enlarges and task.stencil is None and task.scale in PREDICTED_SCALES
    asked = given.init == "predicted" or (given.init is None and given.start is None)
    return network.predicts and pooled and asked and given.method == "ddnm" and not noisy


def _preset(case: Case) -> Preset:
    if case.predicted:
        return PREDICTED
    return PAPER if case.intent == "paper" else case.task.presets[case.intent]


def _preset_fields(preset: Preset) -> dict[str, Any]:
    return {
        "form": preset.form,
        "eta": preset.eta,
        "steps": preset.steps,
        "start": preset.start,
        "guided_start": preset.start,
        "guided_steps": preset.guided_steps or preset.steps,
        "spacing": preset.spacing,
        # At scale 1 bicubic enlargement is the measurement itself.
        "init": "bicubic" if preset.init == "pinv" else preset.init,
        "noise_scale": preset.noise_scale,
        "ensemble": preset.ensemble,
        "travel": (preset.travel_length, preset.travel_repeat),
    }


def _possible_form(case: Case, form: str) -> str:
    return form if form in case.method.forms else case.method.form


def _usual_inverse(case: Case) -> str:
    exact = not case.noisy and case.given.method == "ddnm"
    return "smooth" if exact and case.intent != "paper" else "replicate"


def _start_beyond(case: Case, filled: SamplingSpec) -> int | None:
    """Return the first start that the network has no timestep for; None where both have one."""
    starts = (filled.start, filled.guided_start)
    return next((s for s in starts if s is not None and s >= case.network.n_timesteps), None)
