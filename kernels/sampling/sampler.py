"""The loop of the paper's Algorithms 1 to 3 over a batch of tiles, for every method, with pins and
guide.

A `SamplerState` is a batch between two steps. Every coefficient of a step is gathered on the host
from each tile's own position in the time sequence, so that tiles of one batch may be at different
steps, and nothing in a step waits for the device. Nothing here depends on which tiles share a
batch: alone or among others, a tile's result is the same, on CPU bit for bit.

Sources: Wang et al. 2023, "Unlimited-Size Diffusion Restoration" (the paper); Wang et al. 2023,
DDNM; Ho et al. 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from kernels.denoisers.denoiser import Denoiser
from kernels.noise import NoiseKey, NoiseSource
from kernels.sampling.classifier_guidance import Guidance
from kernels.sampling.clean_estimate import Query, clean_estimate
from kernels.sampling.constraints import Problem, RangeSpace, cat, select, to
from kernels.sampling.gradient_methods import Dps, GradientMethod, Pigdm, evaluate_with_gradient
from kernels.sampling.method_registry import describe_method
from kernels.sampling.methods import Ddnm, Ddrm, Method, Moment, Replacement
from kernels.sampling.pinned_pixels import estimate_with_pins, has_pins
from kernels.sampling.step_coefficients import SamplerConfig, Step, gather

__all__ = ["SamplerConfig", "SamplerState", "advance", "sample", "start", "strategy"]


@lru_cache(maxsize=8)
def strategy(config: SamplerConfig) -> Method:
    """Return the method that a process names."""
    options = config.parameters
    match config.method:
        case "repaint":
            return Replacement(describe_method("repaint"))
        case "ilvr":
            return Replacement(describe_method("ilvr"), options.ilvr_stop)
        case "ddrm":
            return Ddrm(options.eta_b, config.noise_scale)
        case "pigdm":
            return Pigdm(config)
        case "dps":
            return Dps(options.zeta)
    return Ddnm(config.ddnm_plus == "scalar", config.noise_scale)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplerState:
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
    guidance: Guidance | None = None
    pulled: tuple[bool, ...] = ()
    """Which tiles are conditioned on their pins through the network; empty: none."""

    def finished(self, config: SamplerConfig) -> tuple[bool, ...]:
        """Tell which tiles have arrived at -1; they must be retired before the others advance."""
        return tuple(config.times[place] < 0 for place in self.position)

    def select(self, rows: Sequence[int]) -> SamplerState:
        """Return the given tiles as a batch of their own."""
        return select(self, rows)

    @staticmethod
    def cat(states: Sequence[SamplerState]) -> SamplerState:
        """Join batches, wherever their tiles stand; raise ValueError when their problems cannot be
        joined.
        """
        if any(state.problem.known is not None for state in states):
            states = [replace(state, problem=state.problem.with_known(state.x)) for state in states]
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
    guidance: Guidance | None = None,
) -> Tensor:
    """Restore a batch of tiles and return x^ of the last step, (B, C, H, W) float32, unclipped.

    keys: one noise key per tile. shape: (C, H, W) px. x_init: (B, C, H, W) in [-1, 1], the picture
    of a warm start at times[0] (Chung et al. 2022, CCDF); without it x_T is noise, drawn afresh for
    every tile. device: default that of x_init, or the CPU. guidance: with one label per tile, its
    classifier on the device already. Raises ValueError when the problem does not fit the tiles or
    the method cannot do it.
    """
    state = start(problem, config, noise, keys, shape, x_init, device, guidance)
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
    guidance: Guidance | None = None,
) -> SamplerState:
    """Return the batch at times[0], draw 0 consumed; arguments and errors as for `sample`."""
    if device is None:
        device = "cpu" if x_init is None else x_init.device
    keys = tuple(keys)
    method = strategy(config)
    _check_start(problem, method, keys, shape, x_init, guidance)
    pulled = has_pins(problem, len(keys)) if config.pins == "gradient" else (False,) * len(keys)
    problem = problem.to(device)

    if x_init is None:
        picture = torch.zeros((len(keys), *shape), device=device)
    else:
        picture = x_init.to(device).float()
    alpha_bar = config.schedule.alpha_bar[config.times[0]]
    a = math.sqrt(alpha_bar)
    s = 1.0 if x_init is None else math.sqrt(1.0 - alpha_bar)
    x = a * picture
    z = None
    if config.noise_scale > 0:
        z = noise.draw(keys, (0,) * len(keys), shape, x.device)
        x = x + (config.noise_scale * s) * z
        z = config.noise_scale * z
    x = method.begin(problem, picture, x, a, s, z)
    return SamplerState(
        x=x,
        estimate=x,
        problem=problem,
        keys=keys,
        position=(0,) * len(keys),
        draws=(1,) * len(keys),
        guidance=to(guidance, device),
        pulled=pulled,
    )


def _check_start(
    problem: Problem,
    method: Method,
    keys: Sequence[NoiseKey],
    shape: tuple[int, int, int],
    x_init: Tensor | None,
    guidance: Guidance | None,
) -> None:
    """Raise ValueError where problem, method, warm start or guidance do not fit the tiles."""
    wanted = (len(keys), *shape)
    problem.check(wanted)
    method.check(problem, shape)
    if x_init is not None and x_init.shape != wanted:
        raise ValueError(f"x_init has shape {tuple(x_init.shape)}; give {wanted}")
    labels = None if guidance is None else guidance.labels
    if labels is not None and len(labels) != len(keys):
        raise ValueError(f"{len(labels)} labels guide {len(keys)} tiles; give one for each")


@torch.no_grad()
def advance(
    denoiser: Denoiser,
    state: SamplerState,
    config: SamplerConfig,
    noise: NoiseSource,
) -> SamplerState:
    """Take every tile through its pending forward moves, if any, and one reverse step: one network
    call each.

    Raises ValueError when a tile of the batch has finished.
    """
    if any(state.finished(config)):
        raise ValueError("a finished tile cannot advance; select the unfinished ones first")
    climbed = _climb(state, config, noise)
    return _descend(denoiser, climbed, config, noise)


def _climb(state: SamplerState, config: SamplerConfig, noise: NoiseSource) -> SamplerState:
    """Make the pending forward moves of time travel, x <- sqrt(1 - beta) x + sqrt(beta) z, one draw
    each.
    """
    tiles = list(state.x)
    times = config.times
    position = list(state.position)
    draws = list(state.draws)
    while rows := [i for i, p in enumerate(position) if times[p + 1] > times[p]]:
        z = _draw(state, draws, rows, config, noise)
        for k, i in enumerate(rows):
            position[i] += 1
            draws[i] += 1
            beta = config.schedule.beta[times[position[i]]]
            tiles[i] = math.sqrt(1.0 - beta) * tiles[i]
            if z is not None:
                tiles[i] = tiles[i] + math.sqrt(beta) * z[k]
    if position == list(state.position):
        return state
    return replace(
        state,
        x=torch.stack(tiles),
        position=tuple(position),
        draws=tuple(draws),
    )


def _descend(
    denoiser: Denoiser,
    state: SamplerState,
    config: SamplerConfig,
    noise: NoiseSource,
) -> SamplerState:
    """Take one reverse step: estimate, correct, step, post."""
    method = strategy(config)
    device = state.x.device
    indices = [config.times[place] for place in state.position]
    step = gather(config, indices, device)
    on_host = torch.from_numpy(config.schedule.timesteps[indices])
    timesteps = on_host.to(device, non_blocking=True)
    pull = None if state.guidance is None else state.guidance(state.x, timesteps)

    m = _estimate(denoiser, state, config, method, step, timesteps, pull)
    weights = method.weights(m)
    x_hat = method.correct(m, weights)
    if 0 in indices:
        finished = method.finish(m, x_hat)
        x_hat = torch.where(step.s_next == 0, finished, x_hat)

    x_next = x_hat
    if any(indices):  # at t = 0 everything but x^ has weight 0
        rows = range(len(indices))
        z = _draw(state, state.draws, rows, config, noise)
        extra = None
        if method.info.draws > 1:
            second = [draws + 1 for draws in state.draws]
            extra = _draw(state, second, rows, config, noise)
        x_next = _step(config, m, x_hat, weights, z)
        if pull is not None and config.step_form == "posterior":
            x_next = x_next + step.fresh * step.fresh * pull
        x_next = method.post(m, x_next, z, extra)
    return replace(
        state,
        x=x_next,
        estimate=x_hat,
        position=tuple(place + 1 for place in state.position),
        draws=tuple(draws + method.info.draws for draws in state.draws),
    )


def _estimate(
    denoiser: Denoiser,
    state: SamplerState,
    config: SamplerConfig,
    method: Method,
    step: Step,
    timesteps: Tensor,
    pull: Tensor | None,
) -> Moment:
    """Call the network and form the clean estimate; pull: scaled classifier gradient, which form
    eps takes here.
    """
    shift = None
    if pull is not None and config.step_form == "eps":
        shift = -step.s * pull
    query = Query(state.problem, step, state.x, timesteps, shift, config.clip)
    push = None
    if method.info.needs_gradient and state.problem.constraints:
        follows = cast(GradientMethod, method)
        eps, x0, push = evaluate_with_gradient(denoiser, follows, query)
    elif any(state.pulled):
        eps, x0 = estimate_with_pins(denoiser, query, state.pulled)
    else:
        eps, x0 = clean_estimate(denoiser, query)
    return Moment(step, state.problem, state.x, eps, x0, push)


def _step(
    config: SamplerConfig,
    m: Moment,
    x_hat: Tensor,
    weights: RangeSpace | None,
    z: Tensor | None,
) -> Tensor:
    """Go from x_t to x_{t-1} around x^ in the form of the process."""
    step = m.step
    x_next = step.mean_x0 * x_hat
    if config.step_form == "posterior":
        x_next = x_next + step.mean_x * m.x
    else:
        eps = m.eps
        if weights is not None:
            eps = eps - weights.operator.range_project(eps)
        x_next = x_next + step.kept * eps
    if z is not None:
        x_next = x_next + step.fresh * z
        if weights is not None:
            excess = weights.fresh - step.fresh
            x_next = x_next + excess * weights.operator.range_project(z)
    return x_next


def _draw(
    state: SamplerState,
    draws: Sequence[int],
    rows: Sequence[int],
    config: SamplerConfig,
    noise: NoiseSource,
) -> Tensor | None:
    """Return the scaled draw `draws[i]` of every tile i of `rows`; None where nothing is drawn."""
    if config.noise_scale == 0:
        return None
    _, channels, height, width = state.x.shape
    keys = [state.keys[i] for i in rows]
    index = [draws[i] for i in rows]
    z = noise.draw(keys, index, (channels, height, width), state.x.device)
    return z if config.noise_scale == 1 else config.noise_scale * z
