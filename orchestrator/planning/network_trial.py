"""Try a network on an image before anything is restored: does it denoise, and if it does not, how
would it have to be read?
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.denoiser_info import DenoiserInfo, split_ref, with_settings
from orchestrator.arrays import Array
from orchestrator.errors import PlanError
from orchestrator.job.class_guidance import describe_network, network_label
from orchestrator.job.fields.pixel_rules import CURRENT
from orchestrator.job.fields.sections import AUTO, InputSpec
from orchestrator.job.plan import Plan
from orchestrator.job.spec import GuidanceSpec, JobSpec
from orchestrator.measurement.input_file import inspect_file
from orchestrator.measurement.range_survey import survey_range
from orchestrator.measurement.trial_windows import trial_windows
from orchestrator.planning.resolve import plan_job

if TYPE_CHECKING:
    from kernels.denoisers.denoising_trial import BestReading, ReadingTrial

WINDOWS = 4
"""Windows of the image that are tried."""
LARGEST_SIDE = 128
"""Side of a window at most, px: what a network knows shows in a part of its tile."""
SMALLEST_SIDE = 16

UNSURE = {"num_heads", "num_head_channels", "use_new_attention_order", "noise_schedule"}
"""Settings that a plan tries where they were assumed."""
WEIGHTS = ("guided-diffusion", "diffusers", "prior")
"""Schemes whose files may hold what only loading finds: NaN in the middle, shapes that differ."""
KEPT = {"prediction_type"}
"""What a plan does not change."""
SMALL_SIDE = 64
FEW_WINDOWS = 4
FEW_SIGMAS = (0.25, 0.5, 1.0)
"""A plan's trial tells readings apart, it does not measure the network: smaller than a check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedReading:
    """Say what one reading of the network leaves of the noise."""

    reading: str
    """Where it differs from the stated one."""
    levels: tuple[float, ...]
    """rms of eps^ - eps at the noise levels."""
    residual: float
    """Share that it leaves of what somebody leaves who knows nothing of pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCheck:
    """Say whether a network denoises an image as it is stated, and how it would."""

    denoiser: str
    sigmas: tuple[float, ...]
    """Noise levels of the trials, for pictures in [-1, 1]."""
    readings: tuple[TriedReading, ...]
    """The stated reading first, the others from the best."""
    denoises: bool
    line: str
    """The verdict on one line, with what to do."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values; figures that are none are null."""
        document: dict[str, Any] = json.loads(
            json.dumps(asdict(self)), parse_constant=lambda _: None
        )
        return document


def check_network(denoiser: str, given: InputSpec, label: int | None, device: str) -> NetworkCheck:
    """Try every reading of a network on an image; raises PlanError where either cannot be used or
    the image shows nothing.
    """
    from kernels.denoisers.denoising_trial import SIGMAS, BestReading, try_readings
    from kernels.denoisers.trial_candidates import candidates_of

    try:
        info = describe_network(denoiser, GuidanceSpec(label=label))
        windows = read_windows(given, info)
        candidates = candidates_of(denoiser, label, device)
        trials = try_readings(candidates, on_device(windows, device))
    except ValueError as err:
        raise PlanError(str(err)) from None
    verdict = BestReading.of(trials)
    return NetworkCheck(
        denoiser=denoiser,
        sigmas=SIGMAS,
        readings=tuple(_tried(trial, trials[0]) for trial in trials),
        denoises=verdict.denoises,
        line=_line(denoiser, info, verdict),
    )


def plan_tried(spec: JobSpec) -> Plan:
    """Plan a job whose network is tried first, where its reading is not certain.

    Its weights are read, one's own module is called once. Of a guided-diffusion network whose
    heads, order or schedule had to be assumed, the reading that denoises the input best is taken,
    and kept in the job's reference. Raises PlanError on one line as `plan_job` does, where weights
    or module are of no use, and where the network denoises in no reading.
    """
    plan = plan_job(spec)
    for part in (plan, *(region.plan for region in plan.regions)):
        label = network_label(part.spec.denoiser, part.spec.guidance)
        _load_once(part.spec.denoiser, label, part.denoiser.content)
        if _call_once(part.spec.denoiser, part.tile, part.denoiser.content):
            _check_own(part)
    taken = _read_rightly(plan)
    if taken != plan.spec.denoiser:
        plan = plan_job(spec.model_copy(update={"denoiser": taken}))
    for region in plan.regions:
        if _read_rightly(region.plan) != region.plan.spec.denoiser:
            raise PlanError(
                f"{region.plan.denoiser.name} of a region denoises better when read otherwise; "
                f"see gigarestore check {region.plan.spec.denoiser} IMAGE"
            )
    return plan


@lru_cache(maxsize=64)
def _load_once(ref: str, label: int | None, content: str) -> None:
    """Raise PlanError for weights that a description does not read and loading would refuse.

    They are mapped, and read once.
    """
    if split_ref(ref)[0] not in WEIGHTS:
        return
    from kernels.denoisers.denoiser import load_denoiser

    try:
        load_denoiser(ref, "cpu", label)
    except ValueError as err:
        raise PlanError(str(err)) from None


@lru_cache(maxsize=64)
def _call_once(ref: str, tile: int, content: str) -> bool:
    """Raise PlanError where one's own network fails on a tile; tell whether it was called.

    A network that needs a GPU is not tried where there is none: its workers may have one.
    """
    if split_ref(ref)[0] not in ("module", "sigma"):
        return False
    import torch

    from kernels.denoisers.user import try_user_denoiser

    try:
        try_user_denoiser(ref, tile)
    except ValueError as err:
        if "cuda" in str(err).lower() and not torch.cuda.is_available():
            return False
        raise PlanError(str(err)) from None
    return True


def _check_own(plan: Plan) -> None:
    """Raise PlanError where one's own network does not denoise the input, and clearly would when
    read otherwise: its answer is the picture, it is made for 0 to 255.

    One that denoises in no reading may still be meant so, and goes on.
    """
    if (windows := _windows_of(plan, plan.tile)) is None:
        return
    key = (plan.spec.denoiser, plan.denoiser.content)
    if key in _FOUND:
        return
    from kernels.denoisers.denoising_trial import LIMIT, BestReading, try_readings
    from kernels.denoisers.trial_candidates import candidates_of

    ref = plan.spec.denoiser
    everything = candidates_of(ref, None, "cpu")
    tensors = on_device(windows, "cpu")
    stated = try_readings(everything.only(frozenset()), tensors, FEW_SIGMAS)
    if stated[0].residual >= LIMIT:
        verdict = BestReading.of(try_readings(everything, tensors, FEW_SIGMAS))
        if verdict.better:
            raise PlanError(_line(ref, plan.denoiser, verdict))
    _FOUND[key] = ref


def _windows_of(plan: Plan, side: int) -> list[Array] | None:
    """Return the windows of a plan's input for a small trial; None where it shows nothing."""
    if plan.spec.input.path is None or not plan.task.picture:
        return None
    try:
        return read_windows(plan.spec.input, plan.denoiser, side)[:FEW_WINDOWS]
    except PlanError:
        return None  # flat


def _read_rightly(plan: Plan) -> str:
    """Return the reference of a plan's network, read as it denoises the input best.

    What was found for one image serves all others of this process: a batch has one network.
    """
    ref = plan.spec.denoiser
    unsure = frozenset(UNSURE & set(plan.denoiser.assumed))
    if not unsure:
        return ref
    key = (ref, plan.denoiser.content)
    if key not in _FOUND:
        windows = _windows_of(plan, SMALL_SIDE)
        if windows is None:
            return ref  # nothing to see: what is assumed has been said
        _FOUND[key] = _best_reading(plan, windows, unsure)
    return _FOUND[key]


_FOUND: dict[tuple[str, str], str] = {}
"""References with what was found, by reference and content."""


def _best_reading(plan: Plan, windows: list[Array], unsure: Set[str]) -> str:
    """Return the reference with the unsure settings as windows say they are; PlanError where the
    network denoises them in no such reading.
    """
    from kernels.denoisers.denoising_trial import CLEARLY, LIMIT, BestReading, try_readings
    from kernels.denoisers.reading_advice import settings_of
    from kernels.denoisers.trial_candidates import candidates_of

    ref = plan.spec.denoiser
    label = network_label(ref, plan.spec.guidance)
    everything = candidates_of(ref, label, "cpu")
    tensors = on_device(windows, "cpu")
    trials = try_readings(everything.only(unsure), tensors, FEW_SIGMAS)
    stated = trials[0].reading
    alike = [trial for trial in trials if trial.reading.prediction == stated.prediction]
    best = min(alike, key=lambda trial: trial.residual)
    least = min(trial.residual for trial in trials)
    if best.residual < LIMIT and least > CLEARLY * best.residual:
        said = settings_of(best.reading, stated) or {}
        return with_settings(ref, {name: said[name] for name in said if name not in KEPT})
    every = BestReading.of(try_readings(everything, tensors, FEW_SIGMAS))
    line = _line(ref, plan.denoiser, every)
    raise PlanError(f"{line}; what PATH.json says is not tried again")


def read_windows(given: InputSpec, info: DenoiserInfo, largest: int = LARGEST_SIDE) -> list[Array]:
    """Return windows of an image that show something; PlanError where there are none.

    given: black and white are found where they are not said. largest: side of a window at most, px.
    """
    from kernels.denoisers.denoising_trial import FLAT

    file = inspect_file(given)
    if given.values in (None, AUTO):
        found = survey_range(given, file, CURRENT)
        given = given.model_copy(update={"values": found.values})
    windows = trial_windows(given, file, info.channels, side_of(info, largest))
    seen = [window for window in windows if window.std() > FLAT]
    if not seen:
        raise PlanError(
            f"{given.path} is flat: a network cannot be tried on it; give another image"
        )
    return seen[:WINDOWS]


def side_of(info: DenoiserInfo, largest: int) -> int:
    """Return the side of the windows, px: a part of the network's tile that it takes."""
    if info.fixed_tile:
        return info.tile
    multiple = info.multiple
    wanted = min(max(info.tile, SMALLEST_SIDE), largest)
    return max(wanted // multiple, 1) * multiple


def on_device(windows: list[Array], device: str) -> list[Any]:
    """Return the windows as tensors."""
    import torch

    return [torch.from_numpy(np.ascontiguousarray(window)).to(device) for window in windows]


def _tried(trial: ReadingTrial, stated: ReadingTrial) -> TriedReading:
    from kernels.denoisers.reading_advice import in_words

    return TriedReading(
        reading=in_words(trial.reading, stated.reading),
        levels=tuple(round(level, 4) for level in trial.levels),
        residual=round(trial.residual, 4),
    )


def _line(denoiser: str, info: DenoiserInfo, verdict: BestReading) -> str:
    from kernels.denoisers.reading_advice import advice

    if verdict.denoises:
        left = f"{verdict.stated.residual:.2f}"
        return f"{info.name} denoises this image: it leaves {left} of the noise that a guess leaves"
    scheme, path = split_ref(denoiser)
    return f"{info.name} does not denoise this image: {advice(verdict, scheme, path)}"
