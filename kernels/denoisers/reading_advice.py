"""Say in words what a reading of a network is, and what its user writes where so that it is read
like this.
"""

from __future__ import annotations

import json
from typing import Any

from kernels.denoisers.denoising_trial import NEGATED, BestReading, Reading

ANSWERS = {
    "epsilon": "the noise",
    "sample": "the picture",
    "v_prediction": "v",
    NEGATED: "minus the noise",
}
"""What a network answers with, by its prediction."""

STEPS = 1000


def in_words(reading: Reading, beside: Reading) -> str:
    """Say where a reading differs from another; "as stated" where it does not."""
    parts = []
    if reading.settings != beside.settings:
        parts.append(", ".join(f"{k} {v}" for k, v in _heads(reading).items()))
    if reading.schedule != beside.schedule:
        parts.append(f"schedule {reading.schedule}")
    if reading.prediction != beside.prediction:
        parts.append(f"answers with {ANSWERS[reading.prediction]}")
    if reading.ends != beside.ends:
        parts.append(f"pictures from {reading.ends[0]:g} to {reading.ends[1]:g}")
    if reading.timestep_scale != beside.timestep_scale:
        parts.append(f"timesteps times {reading.timestep_scale:g}")
    return ", ".join(parts) or "as stated"


def settings_of(reading: Reading, stated: Reading) -> dict[str, Any] | None:
    """Return the flags of a guided-diffusion checkpoint's JSON with which it is read like this;
    None where none say it.
    """
    if reading.ends != stated.ends or reading.prediction == NEGATED:
        return None
    said = _heads(reading)
    said["noise_schedule"] = reading.schedule
    if reading.prediction != "epsilon":
        said["prediction_type"] = reading.prediction
    if reading.timestep_scale != stated.timestep_scale:
        if reading.timestep_scale not in (1.0, 4.0):
            return None
        said["diffusion_steps"] = round(STEPS * reading.timestep_scale)
    return said


def advice(verdict: BestReading, scheme: str, path: str) -> str:
    """Say on one line why a network cannot be used as it is stated, and what to do."""
    stated = f"{verdict.stated.residual:.2f}"
    figure = f"it leaves {stated} of the noise that a guess leaves"
    if not verdict.better:
        return (
            f"{figure}, and no other reading less than {verdict.best.residual:.2f}: "
            "it is untrained, a latent model's, or made for other images"
        )
    words = in_words(verdict.best.reading, verdict.stated.reading)
    other = f"{verdict.best.residual:.2f} when read otherwise ({words})"
    return f"{figure}, {other}: {_what_to_do(verdict, scheme, path)}"


def _what_to_do(verdict: BestReading, scheme: str, path: str) -> str:
    best = verdict.best.reading
    stated = verdict.stated.reading
    if scheme == "guided-diffusion":
        said = settings_of(best, stated)
        if said is not None:
            return f"write {json.dumps(said)} to {path.partition('#')[0]}.json"
    if scheme == "diffusers":
        return "its scheduler_config.json says something else; put that of its training there"
    return f"wrap it as module: that {_wrapping(best, stated)}"


def _wrapping(best: Reading, stated: Reading) -> str:
    """Say what a module has to do for a network of such a reading."""
    duties = []
    if best.prediction != stated.prediction:
        wanted = ANSWERS[stated.prediction]
        duties.append(
            f"returns {wanted}, where the network answers with {ANSWERS[best.prediction]}"
        )
    if best.ends != stated.ends:
        duties.append(f"maps [-1, 1] to its {best.ends[0]:g} to {best.ends[1]:g}")
    if best.schedule != stated.schedule:
        duties.append(f"has alpha_bar = {best.schedule!r}")
    if best.timestep_scale != stated.timestep_scale:
        duties.append(f"multiplies timesteps by {best.timestep_scale:g}")
    return " and ".join(duties)


def _heads(reading: Reading) -> dict[str, Any]:
    """Return the settings of heads and order as one writes them."""
    said = dict(reading.settings)
    if not said:
        return {}
    counted = said["num_head_channels"] == -1
    name = "num_heads" if counted else "num_head_channels"
    return {name: said[name], "use_new_attention_order": said["use_new_attention_order"]}
