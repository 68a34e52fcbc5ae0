"""Noise schedules, respacing and time travel: host-side tables in float64.

Index convention: a respaced index t runs from 0 (almost clean) to T-1 (almost noise), alpha_bar of
index -1 is 1. `timesteps[t]` is the *base* timestep, the integer that the network receives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Half-width of the offset that keeps the first betas of the cosine schedule from vanishing, and the
# ceiling that keeps the last ones from reaching 1: Nichol & Dhariwal 2021, section 3.2.
COSINE_OFFSET = 0.008
COSINE_MAX_BETA = 0.999


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """Hold the tables of one respaced diffusion process, each float64 of shape (T,) unless said
    otherwise.
    """

    timesteps: Int64
    """Base timestep of every index, ascending, int64."""
    alpha_bar: Float64
    """Cumulative signal power: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) z."""
    beta: Float64
    """Noise variance added by the single step from t-1 to t."""
    c1: Float64
    """Weight of x_0 in the posterior mean (Ho et al. 2020, Eq. 7)."""
    c2: Float64
    """Weight of x_t in the posterior mean (same equation)."""
    posterior_variance: Float64
    """Variance of x_{t-1} given x_t and x_0; 0 at t = 0."""

    def __len__(self) -> int:
        return len(self.timesteps)

    @classmethod
    def from_timesteps(cls, base_alpha_bar: Float64, timesteps: Sequence[int] | Int64) -> Schedule:
        """Keep the given base timesteps and recompute every table in float64 (method of Nichol &
        Dhariwal 2021).

        base_alpha_bar: (n,) decreasing in (0, 1). timesteps: ascending and distinct, in [0, n).
        Raises ValueError when the timesteps are empty, unordered or out of range.
        """
        n = len(base_alpha_bar)
        kept = _checked_timesteps(timesteps, n)
        base = np.asarray(base_alpha_bar, dtype=np.float64)[kept]
        beta = 1.0 - base / _shifted(base)

        alpha_bar = _cumulative(beta)
        previous = _shifted(alpha_bar)
        noise = 1.0 - alpha_bar
        noise_before = 1.0 - previous
        return cls(
            timesteps=kept,
            alpha_bar=alpha_bar,
            beta=beta,
            c1=beta * np.sqrt(previous) / noise,
            c2=noise_before * np.sqrt(1.0 - beta) / noise,
            posterior_variance=beta * noise_before / noise,
        )


def _checked_timesteps(timesteps: Sequence[int] | Int64, n: int) -> Int64:
    """Return timesteps as int64; raise ValueError unless they ascend in [0, n)."""
    kept = np.asarray(timesteps, dtype=np.int64)
    ascending = kept.ndim == 1 and len(kept) > 0 and not np.any(np.diff(kept) <= 0)
    if not ascending or kept[0] < 0 or kept[-1] >= n:
        raise ValueError(
            f"timesteps {kept.tolist()} are not ascending and distinct in [0, {n}); respace again"
        )
    return kept


def _shifted(alpha_bar: Float64) -> Float64:
    """Return alpha_bar of every index's predecessor, 1 for the first."""
    return np.concatenate(([1.0], alpha_bar[:-1]))


def linear_alpha_bar(n: int = 1000) -> Float64:
    """Return alpha_bar (n,) of betas linear from 1e-4 to 2e-2 at n = 1000, both ends scaled by
    1000/n otherwise.
    """
    scale = 1000 / n
    beta = np.linspace(scale * 1e-4, scale * 2e-2, n, dtype=np.float64)
    return _cumulative(beta)


def cosine_alpha_bar(n: int = 1000) -> Float64:
    """Return alpha_bar (n,) of the squared-cosine schedule (Nichol & Dhariwal 2021, Eq. 17)."""

    def level(u: float) -> float:
        shifted = (u + COSINE_OFFSET) / (1 + COSINE_OFFSET)
        return math.cos(shifted * math.pi / 2) ** 2

    betas = []
    for i in range(n):
        kept = level((i + 1) / n) / level(i / n)
        betas.append(min(1 - kept, COSINE_MAX_BETA))
    return _cumulative(np.array(betas, dtype=np.float64))


def scaled_linear_alpha_bar(n: int = 1000) -> Float64:
    """Return alpha_bar (n,) of betas whose root is linear from sqrt(8.5e-4) to sqrt(1.2e-2) (latent
    diffusion).
    """
    first = math.sqrt(8.5e-4)
    last = math.sqrt(1.2e-2)
    roots = np.linspace(first, last, n, dtype=np.float64)
    return _cumulative(roots**2)


def _cumulative(beta: Float64) -> Float64:
    alpha_bar: Float64 = np.cumprod(1.0 - beta, dtype=np.float64)
    return alpha_bar


BASE_SCHEDULES = {
    "linear": linear_alpha_bar,
    "cosine": cosine_alpha_bar,
    "scaled-linear": scaled_linear_alpha_bar,
}


def base_alpha_bar(name: str | Sequence[float], n: int = 1000) -> Float64:
    """Return the base table (n,) of a schedule by its name, or a table given itself.

    Raises ValueError for a name that is not known, and a table that does not have n entries falling
    within (0, 1).
    """
    if not isinstance(name, str):
        return checked_alpha_bar(name, n)
    if name not in BASE_SCHEDULES:
        known = ", ".join(BASE_SCHEDULES)
        raise ValueError(f"unknown noise schedule {name!r}; known: {known}")
    return BASE_SCHEDULES[name](n)


def checked_alpha_bar(table: Sequence[float] | Float64, n: int) -> Float64:
    """Return a table as float64 (n,); raise ValueError unless its n entries fall strictly within
    (0, 1).
    """
    values = np.asarray(table, dtype=np.float64)
    inside = np.all((values > 0) & (values < 1))
    if values.shape != (n,) or not inside or np.any(np.diff(values) >= 0):
        raise ValueError(
            f"alpha_bar of shape {values.shape} is no schedule of {n} timesteps: "
            "give falling values in (0, 1)"
        )
    return values


def respaced_timesteps(n: int, steps: int, start: int | None = None) -> Int64:
    """Return `steps` base timesteps evenly spaced from 0 to `start` (default n-1), ascending.

    The position is accumulated by repeated addition in float64 and rounded half to even, as the
    published checkpoints were sampled. A single step is `start` itself: one estimate from the
    noisiest level. Raises ValueError when `start` is outside [0, n) or there are more steps than
    timesteps.
    """
    last = n - 1 if start is None else start
    if not 0 <= last < n:
        raise ValueError(f"start {last} is outside the base timesteps; choose one in [0, {n - 1}]")
    if not 1 <= steps <= last + 1:
        raise ValueError(
            f"{steps} steps do not fit into base timesteps 0..{last}; "
            f"choose between 1 and {last + 1}"
        )
    if steps == 1:
        return np.array([last], dtype=np.int64)
    kept = _evenly_spaced(last + 1, steps)
    return np.array(kept, dtype=np.int64)


def sectioned_timesteps(n: int, counts: Sequence[int]) -> Int64:
    """Return base timesteps with `counts[i]` of them evenly spaced in the i-th of len(counts) equal
    sections of 0..n-1.

    Raises ValueError when a section is shorter than its count.
    """
    kept: list[int] = []
    first = 0
    usual, longer = divmod(n, len(counts))
    for i, count in enumerate(counts):
        size = usual + (i < longer)
        if not 1 <= count <= size:
            raise ValueError(
                f"{count} steps do not fit into section {i} of {size} timesteps; "
                f"ask for 1 to {size}"
            )
        kept += [first + k for k in _evenly_spaced(size, count)]
        first += size
    return np.array(kept, dtype=np.int64)


def strided_timesteps(n: int, steps: int) -> Int64:
    """Return 0, k, 2k, ... for the integer stride k that gives exactly `steps` of n timesteps (Song
    et al. 2021, DDIM).

    Raises ValueError when no integer stride does.
    """
    for stride in range(1, n + 1):
        kept = range(0, n, stride)
        if len(kept) == steps:
            return np.array(kept, dtype=np.int64)
    raise ValueError(f"no integer stride keeps {steps} of {n} timesteps; use evenly spaced ones")


def _evenly_spaced(size: int, count: int) -> list[int]:
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    kept = []
    position = 0.0
    for _ in range(count):
        kept.append(round(position))
        position += stride
    return kept


def log_sigma_timesteps(alpha_bar: Float64, start: int, steps: int) -> Int64:
    """Return at most `steps` base timesteps from 0 to `start`, uniform in log(s/a), ascending and
    distinct.

    s/a = sqrt((1 - alpha_bar) / alpha_bar) is the noise level in the picture's own unit. Targets
    that fall on the same timestep are merged, so that fewer than `steps` may come back. A single
    step is `start` itself. Raises ValueError when `start` is outside the table or steps < 1.
    """
    if not 0 <= start < len(alpha_bar):
        raise ValueError(
            f"start {start} is outside the base timesteps; choose one in [0, {len(alpha_bar) - 1}]"
        )
    if steps < 1:
        raise ValueError(f"{steps} steps are none; choose at least 1")
    log_sigma = 0.5 * np.log((1.0 - alpha_bar) / alpha_bar)
    targets = np.linspace(log_sigma[start], log_sigma[0], steps)
    distance = np.abs(log_sigma[None, :] - targets[:, None])
    nearest = distance.argmin(axis=1)
    return np.unique(nearest).astype(np.int64)


def time_travel(steps: int, length: int = 1, repeat: int = 1) -> list[int]:
    """Return the visited indices from steps-1 down to the final -1, with RePaint's resampling
    jumps.

    On arriving from above at j in {0, length, 2 length, ...}, j < steps - length, and at most
    repeat-1 times per j, go up `length` single steps. repeat = 1 or length >= steps: no jumps.
    Raises ValueError unless all are positive. Source: Lugmayr et al. 2022, algorithm of the
    appendix; DDNM's time travel is the same sequence.
    """
    if min(steps, length, repeat) < 1:
        raise ValueError(
            f"time travel of {steps} steps, length {length}, repeat {repeat}: "
            "each must be at least 1"
        )
    places = range(0, steps - length, length)
    left = dict.fromkeys(places, repeat - 1)
    t = steps - 1
    times = [t]
    while t >= 0:
        t -= 1
        times.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            times.extend(range(t + 1, t + length + 1))
            t += length
    return times


def network_calls(times: Sequence[int]) -> int:
    """Count the reverse moves of a visited sequence: the network is called once for each, never on
    the way up.
    """
    return sum(after < before for before, after in pairwise(times))
