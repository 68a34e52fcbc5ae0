"""The loop of the paper's Algorithms 1 to 3 over a batch of tiles: unconditional, DDNM, DDNM+, with pins and guide.

A `State` is a batch in mid-flight. Every coefficient of a step is gathered on the host from each tile's own position in
the time sequence, so that tiles of one batch may be at different steps, and nothing in a step waits for the device.
Nothing here depends on which tiles share a batch: alone or among others, a tile's result is the same, on CPU bit for
bit.

Sources: Wang et al. 2023, "Unlimited-Size Diffusion Restoration" (the paper); Wang et al. 2023, DDNM; Ho et al. 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.constraints import Problem, cat, range_space, select
from kernels.denoiser import Denoiser, evaluate
from kernels.noise import NoiseKey, NoiseSource
from kernels.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplerConfig:
    """Say which process is run; the tiles of a batch share it."""

    schedule: Schedule
    times: tuple[int, ...]
    """Visited indices, neighbours one apart, ending at -1 (`kernels.schedule.time_travel`)."""
    form: Literal["posterior", "eps"] = "posterior"
    """`posterior`: mean c1 x^ + c2 x_t (Ho et al., Eq. 7). `eps`: the paper's Eq. 10 with the network's own eps."""
    eta: float | Literal["ddpm"] = 0.85
    """Share of fresh noise in form `eps`, in [0, 1]; `ddpm`: sqrt(posterior variance) / s_{t-1}. Else unused."""
    noise_scale: float = 1.0
    """Factor of every draw, the initial one included; at 0 nothing is drawn."""
    ddnm_plus: Literal["projector", "scalar"] = "projector"
    """With a noisy measurement: weigh noise by range and null space, or by one number as the paper does."""
    clip: bool = True
    """Whether the clean estimate is clamped to [-1, 1] before it is projected; nothing else ever is."""

    def __post_init__(self) -> None:
        moves = pairwise(self.times)
        inside = len(self.times) > 1 and min(self.times[:-1]) >= 0 and max(self.times) < len(self.schedule)
        if not inside or self.times[-1] != -1 or any(abs(after - before) != 1 for before, after in moves):
            raise ValueError(
                f"times must walk by single steps below {len(self.schedule)} to a final -1; use time_travel"
            )
        if self.form not in ("posterior", "eps") or self.ddnm_plus not in ("projector", "scalar"):
            raise ValueError(f"unknown form {self.form!r} or ddnm_plus {self.ddnm_plus!r}; see SamplerConfig")
        if self.eta != "ddpm" and not (isinstance(self.eta, float | int) and 0 <= self.eta <= 1):
            raise ValueError(f"eta {self.eta!r} is outside [0, 1]; choose a share of fresh noise, or 'ddpm'")
        if not 0 <= self.noise_scale <= 1:
            raise ValueError(f"noise scale {self.noise_scale} is outside [0, 1]")


class Step(NamedTuple):
    """Hold the coefficients of one reverse step, one number per tile.

    x0 = x0_x x - x0_eps eps and x' = mean_x0 x^ + mean_x x + kept eps + fresh z, z ~ N(0, I). Each is (B, 1, 1, 1)
    float32 on the device.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """Hold a batch of tiles between two steps."""

    x: Tensor
    """x_t of every tile, (B, C, H, W) float32."""
    estimate: Tensor
    """x^ of every tile's last reverse step, unclipped: the result once the tile has finished."""
    problem: Problem
    keys: tuple[NoiseKey, ...]
    position: tuple[int, ...]
    """Index into `SamplerConfig.times` of every tile."""
    draws: tuple[int, ...]
    """Number of noise draws every tile has consumed."""

    def finished(self, config: SamplerConfig) -> tuple[bool, ...]:
        """Tell which tiles have arrived at -1; they must be retired before the others advance."""
        return tuple(config.times[p] < 0 for p in self.position)

    def select(self, rows: Sequence[int]) -> State:
        """Return the given tiles as a batch of their own."""
        return select(self, rows)

    @staticmethod
    def cat(states: Sequence[State]) -> State:
        """Join batches, wherever their tiles stand; raise ValueError when their problems cannot be joined."""
        if any(s.problem.known is not None for s in states):
            states = [replace(s, problem=s.problem.with_known(s.x)) for s in states]
        return cat(states)


def sample(
    denoiser: Denoiser,
    problem: Problem,
    config: SamplerConfig,
    noise: NoiseSource,
    keys: Sequence[NoiseKey],
    shape: tuple[int, int, int],
    x_init: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Restore a batch of tiles and return x^ of the last step, (B, C, H, W) float32, unclipped.

    keys: one noise key per tile. shape: (C, H, W) px. x_init: (B, C, H, W) in [-1, 1], the picture of a warm start at
    times[0] (Chung et al. 2022, CCDF); without it x_T is noise, drawn afresh for every tile. device: default that of
    x_init, or the CPU. Raises ValueError when the problem does not fit the tiles.
    """
    state = start(problem, config, noise, keys, shape, x_init, device)
    while not all(state.finished(config)):
        state = advance(denoiser, state, config, noise)
    return state.estimate


@torch.no_grad()
def start(
    problem: Problem,
    config: SamplerConfig,
    noise: NoiseSource,
    keys: Sequence[NoiseKey],
    shape: tuple[int, int, int],
    x_init: Tensor | None = None,
    device: torch.device | str | None = None,
) -> State:
    """Return the batch at times[0], draw 0 consumed; arguments and errors as for `sample`."""
    if device is None:
        device = "cpu" if x_init is None else x_init.device
    problem.check((len(keys), *shape))
    if x_init is not None and x_init.shape != (len(keys), *shape):
        raise ValueError(f"x_init has shape {tuple(x_init.shape)}; give {(len(keys), *shape)}")
    x = torch.zeros((len(keys), *shape), device=device)
    alpha_bar = config.schedule.alpha_bar[config.times[0]]
    spread = 1.0 if x_init is None else math.sqrt(1.0 - alpha_bar)
    if x_init is not None:
        x = math.sqrt(alpha_bar) * x_init.to(x)
    if config.noise_scale > 0:
        z = noise.draw(tuple(keys), (0,) * len(keys), shape, x.device)
        x = x + (config.noise_scale * spread) * z
    ones = (1,) * len(keys)
    return State(x=x, estimate=x, problem=problem.to(x.device), keys=tuple(keys), position=(0,) * len(keys), draws=ones)


@torch.no_grad()
def advance(denoiser: Denoiser, state: State, config: SamplerConfig, noise: NoiseSource) -> State:
    """Take every tile through its pending forward moves, if any, and one reverse step: one network call each.

    Raises ValueError when a tile of the batch has finished.
    """
    if any(state.finished(config)):
        raise ValueError("a finished tile cannot advance; select the unfinished ones first")
    return _descend(denoiser, _climb(state, config, noise), config, noise)


def _climb(state: State, config: SamplerConfig, noise: NoiseSource) -> State:
    """Make the pending forward moves of time travel, x <- sqrt(1 - beta) x + sqrt(beta) z, one draw each."""
    tiles, times, position, draws = list(state.x), config.times, list(state.position), list(state.draws)
    while rows := [i for i, p in enumerate(position) if times[p + 1] > times[p]]:
        z = _draw(state, draws, rows, config, noise)
        for k, i in enumerate(rows):
            position[i], draws[i] = position[i] + 1, draws[i] + 1
            beta = config.schedule.beta[times[position[i]]]
            tiles[i] = math.sqrt(1.0 - beta) * tiles[i]
            if z is not None:
                tiles[i] = tiles[i] + math.sqrt(beta) * z[k]
    if position == list(state.position):
        return state
    return replace(state, x=torch.stack(tiles), position=tuple(position), draws=tuple(draws))


def _descend(denoiser: Denoiser, state: State, config: SamplerConfig, noise: NoiseSource) -> State:
    """Take one reverse step: estimate, project, step."""
    x, problem = state.x, state.problem
    indices = [config.times[p] for p in state.position]
    step = _gather(config, indices, x.device)
    timesteps = torch.from_numpy(config.schedule.timesteps[indices]).to(x.device, non_blocking=True)

    eps = evaluate(denoiser, x, timesteps)
    x0 = step.x0_x * x - step.x0_eps * eps
    if config.clip:
        x0 = x0.clamp_(-1.0, 1.0)

    plus = None
    if problem.measurement is not None and problem.measurement.sigma_y > 0:
        scalar = config.ddnm_plus == "scalar"
        plus = range_space(problem.measurement, scalar, step.mean_x0, step.tau, step.eta, x, config.noise_scale)
    x_hat = problem.project(x0, None if plus is None else plus.lam)

    x_next = x_hat
    if any(indices):  # at t = 0 everything but x^ has weight 0
        z = _draw(state, state.draws, range(len(indices)), config, noise)
        x_next = step.mean_x0 * x_hat
        if config.form == "posterior":
            x_next = x_next + step.mean_x * x
        else:
            x_next = x_next + step.kept * (eps if plus is None else eps - plus.operator.range_project(eps))
        if z is not None:
            x_next = x_next + step.fresh * z
            if plus is not None:
                x_next = x_next + (plus.fresh - step.fresh) * plus.operator.range_project(z)
    return replace(
        state,
        x=x_next,
        estimate=x_hat,
        position=tuple(p + 1 for p in state.position),
        draws=tuple(d + 1 for d in state.draws),
    )


def _draw(
    state: State, draws: Sequence[int], rows: Sequence[int], config: SamplerConfig, noise: NoiseSource
) -> Tensor | None:
    if config.noise_scale == 0:
        return None
    _, c, h, w = state.x.shape
    z = noise.draw([state.keys[i] for i in rows], [draws[i] for i in rows], (c, h, w), state.x.device)
    return z if config.noise_scale == 1 else config.noise_scale * z


def _gather(config: SamplerConfig, indices: Sequence[int], device: torch.device) -> Step:
    rows = torch.from_numpy(_step_table(config)[list(indices)])
    return Step(*rows.to(device, non_blocking=True)[..., None, None, None].unbind(1))


@lru_cache(maxsize=8)
def _step_table(config: SamplerConfig) -> NDArray[np.float32]:
    """Tabulate `Step` for every index, (T, 8); computed in float64."""
    schedule = config.schedule
    previous = np.concatenate(([1.0], schedule.alpha_bar[:-1]))
    x0_x = 1.0 / np.sqrt(schedule.alpha_bar)
    x0_eps = np.sqrt(1.0 / schedule.alpha_bar - 1.0)
    none = np.zeros(len(schedule))
    if config.form == "posterior":
        tau = np.sqrt(schedule.posterior_variance)
        columns = [x0_x, x0_eps, schedule.c1, schedule.c2, none, tau, tau, none]
    else:
        tau = np.sqrt(1.0 - previous)
        eta = np.sqrt(schedule.beta / (1.0 - schedule.alpha_bar)) if config.eta == "ddpm" else none + config.eta
        columns = [x0_x, x0_eps, np.sqrt(previous), none, tau * np.sqrt(1.0 - eta**2), tau * eta, tau, eta]
    return np.stack(columns, axis=1).astype(np.float32)
