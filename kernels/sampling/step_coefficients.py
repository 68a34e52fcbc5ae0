"""Which process the sampler runs, and the coefficients of its every step: host-side tables,
gathered per tile.

Sources: Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM), Bao et al. 2022 (Analytic-DPM), Wang et al.
2023 (the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.sampling.method_registry import Form, MethodConfig, describe_method
from kernels.schedule import Float64, Schedule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplerConfig:
    """Say which process is run; the tiles of a batch share it."""

    schedule: Schedule
    times: tuple[int, ...]
    """Visited indices, neighbours one apart, ending at -1 (`kernels.schedule.time_travel`)."""
    method: str = "ddnm"
    """How measurement, guide and known pixels enter a step, a key of
    `kernels.sampling.method_registry.METHODS`.
    """
    parameters: MethodConfig = field(default_factory=MethodConfig)
    """What single methods leave open."""
    form: Form | None = None
    """`posterior`: mean c1 x^ + c2 x_t (Ho et al., Eq. 7). `eps`: the paper's Eq. 10 with the
    network's own eps. None: the one that the method was published with (`MethodInfo.form`)."""
    eta: float | Literal["ddpm", "analytic"] | tuple[float, ...] = 0.85
    """Share of fresh noise in form `eps`, in [0, 1]: one for all steps, or one for every index of
    the schedule; `ddpm`: sqrt(posterior variance) / s_{t-1}, which form `posterior` always has.
    `analytic`, in both forms: the mean as with `ddpm`, the variance Analytic-DPM's optimal one,
    which needs `eps_power`."""
    eps_power: tuple[float, ...] | None = None
    """E||eps||^2 / d of the denoiser at every index (`kernels.sampling.analytic_variance`); used by
    eta `analytic` only.
    """
    noise_scale: float = 1.0
    """Factor of every draw, the initial one included; at 0 nothing is drawn."""
    ddnm_plus: Literal["projector", "scalar"] = "projector"
    """ddnm with a noisy measurement: weigh noise by range and null space, or by one number as the
    paper does.
    """
    pins: Literal["replace", "gradient"] = "replace"
    """How pixels of earlier tiles enter: they replace those of the clean estimate, or besides pull
    the rest of it through the network's derivative (`kernels.sampling.pinned_pixels`)."""
    clip: bool = True
    """Whether the clean estimate is clamped to [-1, 1] before it is projected; nothing else ever
    is.
    """

    def __post_init__(self) -> None:
        self._check_times()
        known_form = self.form in ("posterior", "eps", None)
        if not known_form or self.ddnm_plus not in ("projector", "scalar"):
            raise ValueError(
                f"unknown form {self.form!r} or ddnm_plus {self.ddnm_plus!r}; see SamplerConfig"
            )
        if self.step_form not in describe_method(self.method).forms:
            raise ValueError(
                f"method {self.method} has no form {self.form!r}; leave the form to the method"
            )
        if not 0 <= self.noise_scale <= 1:
            raise ValueError(f"noise scale {self.noise_scale} is outside [0, 1]")
        self._check_eta()

    @property
    def step_form(self) -> Form:
        """Return the form that runs."""
        return self.form or describe_method(self.method).form

    def _check_times(self) -> None:
        count = len(self.schedule)
        *before_last, last = self.times or (0,)
        inside = all(0 <= t < count for t in before_last)
        single = all(abs(after - before) == 1 for before, after in pairwise(self.times))
        if not before_last or not inside or last != -1 or not single:
            raise ValueError(
                f"times must walk by single steps below {count} to a final -1; use time_travel"
            )

    def _check_eta(self) -> None:
        count = len(self.schedule)
        power = self.eps_power
        if self.eta == "analytic" and power is None:
            raise ValueError(
                "eta 'analytic' needs eps_power; "
                "estimate it with kernels.sampling.analytic_variance"
            )
        if power is not None:
            numbers = all(0 <= p < float("inf") for p in power)
            if len(power) != count or not numbers:
                raise ValueError(
                    f"eps_power must hold {count} numbers of at least 0, one per index; "
                    "estimate it again"
                )

        if isinstance(self.eta, str):
            if self.eta not in ("ddpm", "analytic"):
                raise ValueError(
                    f"eta {self.eta!r} is unknown; give a number in [0, 1], 'ddpm' or 'analytic'"
                )
            return
        if isinstance(self.eta, tuple):
            if len(self.eta) != count or self.step_form == "posterior":
                raise ValueError(
                    f"a table of {len(self.eta)} etas needs form 'eps' "
                    f"and one for each of {count} indices"
                )
            etas = self.eta
        else:
            etas = (self.eta,)
        for eta in etas:
            if not (isinstance(eta, float | int) and 0 <= eta <= 1):
                raise ValueError(
                    f"eta {eta!r} is outside [0, 1]; "
                    "choose a share of fresh noise, 'ddpm' or 'analytic'"
                )


class Step(NamedTuple):
    """Hold the coefficients of one reverse step, one number per tile.

    x0 = x0_x x - x0_eps eps and x' = mean_x0 x^ + mean_x x + kept eps + fresh z, z ~ N(0, I). Each
    is (B, 1, 1, 1) float32 on the device.
    """

    x0_x: Tensor
    x0_eps: Tensor
    mean_x0: Tensor
    mean_x: Tensor
    kept: Tensor
    fresh: Tensor
    tau: Tensor
    """Standard deviation of all noise that the step may leave beside the mean: DDNM+'s budget."""
    eta: Tensor
    """Share of tau that stays fresh noise where the measurement's own noise takes the rest."""
    a: Tensor
    """sqrt(alpha_bar_t): x_t = a x_0 + s z."""
    s: Tensor
    a_next: Tensor
    """sqrt(alpha_bar_{t-1}), 1 at t = 0."""
    s_next: Tensor
    """sqrt(1 - alpha_bar_{t-1}), 0 at t = 0 and nowhere else."""
    timestep: Tensor
    """Base timestep of t."""
    span: Tensor
    """Base timesteps from t to t-1; those before 0 count as one."""

    def select(self, rows: Sequence[int]) -> Step:
        """Return the step of chosen tiles of the batch."""
        return Step(*(column[list(rows)] for column in self))


def gather(config: SamplerConfig, indices: Sequence[int], device: torch.device) -> Step:
    """Return the coefficients at each tile's own index, without waiting for the device."""
    rows = torch.from_numpy(_step_table(config)[list(indices)])
    return Step(*rows.to(device, non_blocking=True)[..., None, None, None].unbind(1))


@lru_cache(maxsize=8)
def _step_table(config: SamplerConfig) -> NDArray[np.float32]:
    """Tabulate `Step` for every index, (T, 14); computed in float64."""
    schedule = config.schedule
    previous = np.concatenate(([1.0], schedule.alpha_bar[:-1]))
    a, s, a_next, s_next = (
        np.sqrt(v) for v in (schedule.alpha_bar, 1 - schedule.alpha_bar, previous, 1 - previous)
    )
    none = np.zeros(len(schedule))
    if config.step_form == "posterior":
        tau = np.sqrt(schedule.posterior_variance)
        mean_x0 = schedule.c1
        mean_x = schedule.c2
        kept = none
        fresh = tau
        eta = none
        weight = mean_x0
    else:
        tau = s_next
        eta = _etas(config)
        mean_x0 = a_next
        mean_x = none
        kept = tau * np.sqrt(1.0 - eta**2)
        fresh = tau * eta
        weight = mean_x0 - kept * a / s
    if config.eta == "analytic":
        fresh = _optimal_deviation(fresh, weight * s / a, np.array(config.eps_power))
    span = np.diff(schedule.timesteps, prepend=-1)
    x0_x = 1.0 / a
    x0_eps = np.sqrt(1.0 / schedule.alpha_bar - 1.0)
    columns = [
        x0_x,
        x0_eps,
        mean_x0,
        mean_x,
        kept,
        fresh,
        tau,
        eta,
        a,
        s,
        a_next,
        s_next,
        schedule.timesteps,
        span,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _etas(config: SamplerConfig) -> Float64:
    if isinstance(config.eta, str):
        etas: Float64 = np.sqrt(config.schedule.beta / (1.0 - config.schedule.alpha_bar))
        return etas
    return np.zeros(len(config.schedule)) + np.array(config.eta)


def _optimal_deviation(fresh: Float64, lever: Float64, power: Float64) -> Float64:
    """Return sqrt(fresh^2 + lever^2 (1 - power)), 0 at t = 0: Bao et al. 2022, Eq. 8 in terms of
    eps.

    An estimate of x_0 from x_t is uncertain by (s/a)^2 (1 - E||eps||^2/d) on average; lever is its
    weight in the mean of x_{t-1} times s/a. The last step returns its estimate and adds nothing.
    """
    deviation: Float64 = np.sqrt(fresh**2 + lever**2 * (1.0 - np.minimum(power, 1.0)))
    deviation[0] = 0.0
    return deviation
