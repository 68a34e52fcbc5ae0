"""Try a network on noised windows of an image: how much of the noise does it find, and would it
find more if it were read in another way?

The figure is the root mean square of eps^ - eps at five noise levels. Who knows nothing of pictures
but their mean and variance v (Wiener's estimate of one pixel) still finds part of the noise: of
noise sigma in the picture's own unit sqrt(v / (v + sigma^2)) is left. The residual is that share of
it which a network leaves, by the geometric mean over the levels: below 1 it knows pictures, at 1 it
knows nothing, above it is wrong. A network read in a wrong way (its answer is the picture, it
expects 0 to 255, other heads) leaves more than one that is read rightly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.denoisers.guided_diffusion.answer_meaning import PREDICTIONS, eps_of
from kernels.noise import KeyedNoise
from kernels.schedule import Float64

SIGMAS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Noise levels of a trial, for pictures in [-1, 1]."""

LIMIT = 0.9
"""A network whose residual is above it does not denoise the windows."""

CLEARLY = 0.8
"""A reading is clearly better than another where it leaves at most this share of the other's."""

ROUNDS = 3
"""Things that may be stated wrongly at once, the prediction apart."""

NEGATED = "negated"
"""The answer is minus the noise: no network is meant so, but a module may return it."""

SEED = 0x7E57
"""Of the noise; any number, the same everywhere."""

FLAT = 0.02
"""Windows of a smaller deviation say nothing about a network."""

LEAST = 1e-3
"""Residuals below count as this, so that no logarithm fails."""

Raw = Callable[[Tensor, Tensor], Tensor]
"""A bare network: its answer (1, C, H, W) to x_t and timesteps (1,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Say how a network is read: what of it cannot be seen in its weights."""

    settings: tuple[tuple[str, Any], ...] = ()
    """Settings that change the network itself, by their names: heads, order."""
    schedule: str = "stated"
    """Name of the noise schedule."""
    prediction: str = PREDICTIONS[0]
    """One of PREDICTIONS, or NEGATED."""
    ends: tuple[float, float] = (-1.0, 1.0)
    """What black and white are to the network."""
    timestep_scale: float = 1.0
    """By what it wants its timesteps multiplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingTrial:
    """Hold what one reading leaves of the noise."""

    reading: Reading
    levels: tuple[float, ...]
    """rms of eps^ - eps at SIGMAS."""
    residual: float
    """Relative to who knows nothing, 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Hold a network that can be read in several ways."""

    stated: Reading
    build: Callable[[tuple[tuple[str, Any], ...]], Raw] = field(compare=False)
    """Build the network with settings."""
    tables: dict[str, Float64]
    """alpha_bar of every schedule by its name."""
    settings: tuple[tuple[tuple[str, Any], ...], ...] = ()
    """Other settings than the stated ones."""
    ends: tuple[tuple[float, float], ...] = ()
    timestep_scales: tuple[float, ...] = ()
    predictions: tuple[str, ...] = (*PREDICTIONS, NEGATED)

    def only(self, names: Set[str]) -> Candidates:
        """Return the readings that differ in these settings alone, and in the prediction."""
        heads = {name for name, _ in self.stated.settings} & names
        stated = {self.stated.schedule: self.tables[self.stated.schedule]}
        return replace(
            self,
            settings=self.settings if heads else (),
            tables=self.tables if "noise_schedule" in names else stated,
            ends=(),
            timestep_scales=(),
        )

    def neighbours(self, of: Reading) -> Iterator[Reading]:
        """Yield every reading that differs from another in one thing, the prediction apart."""
        for settings in (self.stated.settings, *self.settings):
            yield replace(of, settings=settings)
        for schedule in self.tables:
            yield replace(of, schedule=schedule)
        for ends in (self.stated.ends, *self.ends):
            yield replace(of, ends=ends)
        for scale in (self.stated.timestep_scale, *self.timestep_scales):
            yield replace(of, timestep_scale=scale)


@torch.no_grad()
def try_readings(
    network: Candidates, windows: Sequence[Tensor], sigmas: Sequence[float] = SIGMAS
) -> list[ReadingTrial]:
    """Try the stated reading and its neighbours, then those of the best where none denoises.

    windows: (C, S, S) float32 in [-1, 1], not flat. The stated reading comes first, the others by
    their residual.
    """
    trials: dict[Reading, ReadingTrial] = {}
    centre = network.stated
    for _ in range(ROUNDS):
        for reading in dict.fromkeys(network.neighbours(centre)):
            if replace(reading, prediction=network.stated.prediction) not in trials:
                for trial in _tried(network, reading, windows, sigmas):
                    trials[trial.reading] = trial
        best = min(trials.values(), key=lambda trial: trial.residual)
        if best.residual < LIMIT or best.residual > CLEARLY * trials[centre].residual:
            break
        centre = best.reading
    stated = trials.pop(network.stated)
    return [stated, *sorted(trials.values(), key=lambda trial: trial.residual)]


def _tried(
    network: Candidates, reading: Reading, windows: Sequence[Tensor], sigmas: Sequence[float]
) -> list[ReadingTrial]:
    """Return the trials of a reading; none where the network fails on another than its own."""
    try:
        return list(try_reading(network, reading, windows, sigmas))
    except Exception:  # one's own code may raise anything for timesteps that it does not expect
        if reading == network.stated:
            raise
        return []


def try_reading(
    network: Candidates, reading: Reading, windows: Sequence[Tensor], sigmas: Sequence[float]
) -> Iterator[ReadingTrial]:
    """Yield the trial of a reading under every prediction: one evaluation serves all of them."""
    raw = network.build(reading.settings)
    table = network.tables[reading.schedule]
    squares = {name: np.zeros(len(sigmas)) for name in network.predictions}
    nothing = np.zeros(len(sigmas))
    noise = KeyedNoise(SEED)
    for place, window in enumerate(windows):
        channels, height, width = window.shape
        eps = noise.draw([(0, 0, place)], [0], (channels, height, width), window.device)
        variance = float(window.var())
        for level, sigma in enumerate(sigmas):
            errors = _squared_errors(raw, table, reading, window[None], eps, sigma, squares)
            nothing[level] += variance / (variance + sigma**2)
            for name, error in errors:
                squares[name][level] += error
    for name, sums in squares.items():
        relative = np.sqrt(sums / nothing)
        residual = float(np.exp(np.log(np.maximum(relative, LEAST)).mean()))
        yield ReadingTrial(
            reading=replace(reading, prediction=name),
            levels=tuple(float(value) for value in np.sqrt(sums / len(windows))),
            residual=residual if math.isfinite(residual) else math.inf,
        )


def _squared_errors(
    raw: Raw,
    table: Float64,
    reading: Reading,
    window: Tensor,
    eps: Tensor,
    sigma: float,
    predictions: Iterable[str],
) -> Iterator[tuple[str, float]]:
    """Yield the mean square of eps^ - eps of one window at one level under every prediction."""
    low, high = reading.ends
    half = (high - low) / 2
    wanted = np.log(sigma * half)
    t = int(np.abs(0.5 * np.log((1 - table) / table) - wanted).argmin())
    a = math.sqrt(table[t])
    s = math.sqrt(1 - table[t])
    x_t = a * (low + (window + 1) * half) + s * eps
    timestep = torch.full((1,), t, device=window.device)
    if reading.timestep_scale != 1:
        timestep = timestep * reading.timestep_scale
    answer = raw(x_t, timestep).float()
    weights = torch.tensor(a), torch.tensor(s)
    for name in predictions:
        if name == NEGATED:
            found = -answer
        else:
            found = eps_of(name, answer, x_t, *weights)
        error = float((found - eps).square().mean())
        yield name, error if math.isfinite(error) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class BestReading:
    """Say what trials show: whether the stated reading denoises, and which would."""

    stated: ReadingTrial
    best: ReadingTrial

    @classmethod
    def of(cls, trials: Sequence[ReadingTrial]) -> BestReading:
        """Judge trials as `try_readings` gives them."""
        return cls(stated=trials[0], best=min(trials, key=lambda trial: trial.residual))

    @property
    def better(self) -> bool:
        """Whether another reading denoises clearly better than the stated one."""
        clearly = self.best.residual <= CLEARLY * self.stated.residual
        return clearly and self.best.residual < LIMIT

    @property
    def denoises(self) -> bool:
        """Whether the stated reading denoises, and no other does clearly better."""
        return self.stated.residual < LIMIT and not self.better
