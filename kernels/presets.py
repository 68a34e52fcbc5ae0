"""Name the ways of sampling that were measured, so that a user says what is wanted and not how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Init = Literal["bicubic", "predicted", "pinv", "none"]
Ensemble = Literal["1", "2", "4", "8", "cycle"]

# Network evaluations of a step under the symmetries of kernels.denoisers.symmetry.
EVALUATIONS: dict[Ensemble, int] = {"1": 1, "2": 2, "4": 4, "8": 8, "cycle": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Hold what decides the trajectory of a tile besides the network and the constraints."""

    start: int | None
    """Base timestep of the warm start; None starts from pure noise at the last one, or where the
    measurement's is.
    """
    steps: int
    """Number of timesteps kept; spacing 'log_sigma' may merge a few of them."""
    spacing: Literal["log_sigma", "uniform"]
    """Timesteps evenly spaced in log(s/a), which dwells on fine detail, or in the timestep itself.
    """
    form: Literal["posterior", "eps"]
    """How a step is taken (method: section 2); `kernels.sampling.sampler.SamplerConfig.form`."""
    eta: float
    """Share of fresh noise in form 'eps'; without effect in form 'posterior'."""
    noise_scale: float
    """Factor of every draw: 1 samples the posterior, 0 heads for its average."""
    init: Init
    """Picture of the warm start: the measurement enlarged bicubically, what a network makes of that
    (kernels.denoisers.predictor), its pseudo-inverse, or none."""
    guided_steps: int | None = None
    """`steps` at levels whose low frequencies a coarser level has settled; None: the same."""
    ensemble: Ensemble = "1"
    """Symmetries that a network without knowledge of objects is seen under
    (kernels.denoisers.symmetry).
    """
    travel_length: int = 1
    """Steps of one jump back of time travel; without effect when `travel_repeat` is 1."""
    travel_repeat: int = 1


# Close to the posterior mean: best PSNR and SSIM. Without noise and with eta 1 a step is x' = a'
# x^: the network's estimate, projected, becomes the next input at a lower level. A deviation from
# Algorithm 1, which starts from noise. Start 100 (noise level 0.34) is as good as 250 for exact
# measurements, and better for noisy ones and for holes. Under the guide of a coarser level 5 steps
# give the same PSNR as 20, to 0.01 dB.
FAITHFUL = Preset(
    start=100,
    steps=20,
    guided_steps=5,
    spacing="log_sigma",
    form="eps",
    eta=1.0,
    noise_scale=0.0,
    init="bicubic",
    ensemble="cycle",
)
# Where single pixels are missing, a spline through the known ones is close already, and what a step
# smooths beside known pixels, which it cannot move, is lost: the fewer are known, the later the
# start. (share of known pixels beside the known ones, start), docs/RESULTS.md.
SCATTERED_STARTS = ((0.15, 5), (0.25, 12), (0.4, 20), (0.65, 40))
# The latest start and the steps of levels that have a coarser one: few steps serve a late start
# only, and more of them would take their time on the full size.
SCATTERED_GUIDED_START = 10
SCATTERED_GUIDED_STEPS = 8
# From a predicted picture little is left to do: of the starts and steps that were tried, three from
# start 10 gave the best PSNR and SSIM (docs/RESULTS.md).
PREDICTED = replace(
    FAITHFUL,
    start=10,
    steps=3,
    guided_steps=3,
    init="predicted",
)
# The network that predicts was trained for these enlargements, and is evaluated under these
# symmetries.
PREDICTED_SCALES = (2, 4, 8)
PREDICTION_ENSEMBLE: Ensemble = "4"

# Levels that only start from a coarser one, and are not held to it, settle their own low
# frequencies.
STARTED_STEPS = 20

# A sample of the posterior, nearer to the grain of real images at the price of PSNR; also a warm
# start.
DETAIL = Preset(
    start=400, steps=20, spacing="log_sigma", form="eps", eta=1.0, noise_scale=1.0, init="bicubic"
)

# What the paper runs with its large checkpoints: Algorithm 1 from pure noise, T = 100, time travel
# l = 10, r = 3.
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

# A noisy measurement of every pixel is x_t / a itself, at the timestep whose noise level is
# sigma_y: start there, and draw nothing, since the noise is in it already. Each further step at eta
# 1 denoises what is clean already. With eta 0 the measurement's own noise is carried along the
# trajectory, so that more grain is left.
DENOISING = {
    "faithful": Preset(
        start=None,
        steps=1,
        spacing="log_sigma",
        form="eps",
        eta=1.0,
        noise_scale=0.0,
        init="pinv",
        ensemble="4",
    ),
    "detail": Preset(
        start=None, steps=5, spacing="log_sigma", form="eps", eta=0.0, noise_scale=0.0, init="pinv"
    ),
}
