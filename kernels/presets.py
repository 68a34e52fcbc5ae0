"""Name the ways of sampling that were measured, so that a user says what is wanted and not how.

torch is not needed to choose a preset, only to run one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernels.schedule import Float64, Schedule, log_sigma_timesteps, respaced_timesteps, time_travel

Init = Literal["bicubic", "pinv", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Hold what decides the trajectory of a tile besides the network and the constraints."""

    start: int | None
    """Base timestep of the warm start; None starts from pure noise at the last one."""
    steps: int
    """Number of timesteps kept; spacing 'log_sigma' may merge a few of them."""
    spacing: Literal["log_sigma", "uniform"]
    """Timesteps evenly spaced in log(s/a), which dwells on fine detail, or in the timestep itself."""
    form: Literal["posterior", "eps"]
    """How a step is taken (method: section 2); `kernels.sampler.SamplerConfig.form`."""
    eta: float
    """Share of fresh noise in form 'eps'; without effect in form 'posterior'."""
    noise_scale: float
    """Factor of every draw: 1 samples the posterior, 0 heads for its average."""
    init: Init
    """Picture of the warm start: the measurement enlarged bicubically, its pseudo-inverse, or none."""
    travel_length: int = 1
    """Steps of one jump back of time travel; without effect when `travel_repeat` is 1."""
    travel_repeat: int = 1

    def schedule(self, alpha_bar: Float64) -> Schedule:
        """Return the respaced tables on a base schedule (n,); a start beyond its end is its end."""
        start = len(alpha_bar) - 1 if self.start is None else min(self.start, len(alpha_bar) - 1)
        if self.spacing == "log_sigma":
            kept = log_sigma_timesteps(alpha_bar, start, self.steps)
        else:
            kept = respaced_timesteps(len(alpha_bar), min(self.steps, start + 1), start)
        return Schedule.from_timesteps(alpha_bar, kept)

    def times(self, schedule: Schedule) -> tuple[int, ...]:
        """Return the visited indices of a schedule, -1 last."""
        return tuple(time_travel(len(schedule), self.travel_length, self.travel_repeat))


# Close to the posterior mean: best PSNR and SSIM. Without noise and with eta 1 a step is x' = a' x^: the network's
# estimate, projected, becomes the next input at a lower level. A deviation from Algorithm 1, which starts from noise.
FAITHFUL = Preset(start=250, steps=20, spacing="log_sigma", form="eps", eta=1.0, noise_scale=0.0, init="bicubic")

# A sample of the posterior, nearer to the grain of real images at the price of PSNR; also a warm start.
DETAIL = Preset(start=400, steps=20, spacing="log_sigma", form="eps", eta=1.0, noise_scale=1.0, init="bicubic")

# What the paper runs with its large checkpoints: Algorithm 1 from pure noise, T = 100, time travel l = 10, r = 3.
PAPER = Preset(
    start=None,
    steps=100,
    spacing="uniform",
    form="posterior",
    eta=0.85,
    noise_scale=1.0,
    init="none",
    travel_length=10,
    travel_repeat=3,
)

INTENTS = {"faithful": FAITHFUL, "detail": DETAIL}


def preset(intent: str) -> Preset:
    """Return the preset of an intent for the built-in prior; raise ValueError when it is not known."""
    if intent not in INTENTS:
        raise ValueError(f"unknown intent {intent!r}; known: {', '.join(INTENTS)}")
    return INTENTS[intent]
