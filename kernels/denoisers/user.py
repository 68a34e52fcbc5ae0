"""Serve the user's own network: `module:package.module:name`, (x_t, t) -> eps, and `sigma:...`,
D(z; sigma) -> x0.

The named object is a function, an `nn.Module`, or a class, which is called without arguments when
it is loaded. These attributes of the object (or the class) are read where there are any:

    channels    image channels (3)
    tile        default side of a tile, px (256)
    multiple    sides are multiples of it, px (1)
    content     text that names the weights, for resuming: the source file is hashed anyway
    alpha_bar   `module:` only: name of the base schedule, or its table
    sigma_min, sigma_max
                `sigma:` only: the noise levels of its training (0.002, 80)

`sigma:` serves networks in the parameterisation of Karras et al. 2022 ("Elucidating the Design
Space of Diffusion-Based Generative Models", EDM): z = x_0 + sigma n, D estimates x_0. Their
published files are pickles with code in them, which this program does not execute; a module that
loads one is the user's own decision.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from kernels.denoiser_info import DenoiserInfo, split_ref
from kernels.schedule import BASE_SCHEDULES, Float64, base_alpha_bar, checked_alpha_bar
from kernels.user_code import in_one_line, load_object, source_hash

SIGMA_STEPS = 1000
# Noise levels are spaced evenly in sigma^(1/rho): Karras et al. 2022, Eq. 5.
RHO = 7.0


class UserDenoiser:
    """Hold the user's object as a `Denoiser`; the answer's shape is checked at every call."""

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        info: DenoiserInfo,
        *,
        takes_sigma: bool,
    ) -> None:
        self.function = function
        self.info = info
        self.takes_sigma = takes_sigma
        alpha_bar = base_alpha_bar(info.alpha_bar, info.n_timesteps)
        sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
        self._a = torch.from_numpy(np.sqrt(alpha_bar)).float()
        self._sigma = torch.from_numpy(sigma).float()
        if isinstance(function, nn.Module):
            function.eval().requires_grad_(False)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return eps (B, C, H, W) at base timesteps t (B,); ValueError where the answer has another
        shape.
        """
        if not self.takes_sigma:
            return self._checked(self.function(x_t, t), x_t)
        sigma = self._sigma[t]
        z = x_t / self._a[t][:, None, None, None]
        x0 = self._checked(self.function(z, sigma), x_t)
        return (z - x0) / sigma[:, None, None, None]

    def to(self, device: torch.device | str) -> Self:
        """Move the tables, and the object where it has a method `to`."""
        self._a = self._a.to(device)
        self._sigma = self._sigma.to(device)
        if hasattr(self.function, "to"):
            self.function = self.function.to(device)
        return self

    def _checked(self, answer: Any, x_t: Tensor) -> Tensor:
        if not isinstance(answer, Tensor) or answer.shape != x_t.shape:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(
                f"{self.info.name} answered {got} to a batch of {tuple(x_t.shape)}; "
                "return the same shape"
            )
        return answer.float()


def describe_user_denoiser(ref: str) -> DenoiserInfo:
    """Describe the denoiser of a `module:` or `sigma:` reference from its attributes; a class is
    not instantiated.

    Raises ValueError where it cannot be imported or an attribute makes no sense.
    """
    scheme, name = split_ref(ref)
    named = load_object(name, "denoiser")
    if not callable(named):
        raise ValueError(
            f"denoiser {ref!r} is a {type(named).__name__}, which cannot be called; "
            "name a function or class"
        )
    info = DenoiserInfo(
        differentiable=False,
        name=ref,
        channels=_natural(ref, named, "channels", 3),
        tile=_natural(ref, named, "tile", 256),
        multiple=_natural(ref, named, "multiple", 1),
        content=source_hash(named),
    )
    schedule: Any = getattr(named, "alpha_bar", "linear")
    if scheme == "sigma":
        schedule = _sigma_table(ref, named)
    if isinstance(schedule, str):
        if schedule not in BASE_SCHEDULES:
            known = ", ".join(BASE_SCHEDULES)
            raise ValueError(f"denoiser {ref!r}: alpha_bar {schedule!r} is unknown; known: {known}")
        return replace(info, alpha_bar=schedule)
    table = tuple(float(value) for value in schedule)
    checked_alpha_bar(table, len(table))
    return replace(info, alpha_bar=table, n_timesteps=len(table))


def load_user_denoiser(ref: str, device: torch.device | str = "cpu") -> UserDenoiser:
    """Load the denoiser of a `module:` or `sigma:` reference; errors as for
    `describe_user_denoiser`.
    """
    info = describe_user_denoiser(ref)
    scheme, name = split_ref(ref)
    named = load_object(name, "denoiser")
    try:
        function: Any = named() if inspect.isclass(named) else named
    except Exception as error:  # a user's constructor may raise anything
        raise ValueError(
            f"denoiser {ref!r}: making a {name.partition(':')[2]} failed: {in_one_line(error)}"
        ) from error
    if not callable(function):
        raise ValueError(
            f"denoiser {ref!r}: a {type(function).__name__} cannot be called; give it a __call__"
        )
    return UserDenoiser(function, info, takes_sigma=scheme == "sigma").to(device)


def try_user_denoiser(ref: str, side: int) -> None:
    """Load a denoiser and call it once, on noise of side x side px, so that it fails before a run
    does.

    Raises ValueError on one line with file and line of the user's code where it cannot be made,
    raises whatever, or answers with another shape or with what is no finite number.
    """
    denoiser = load_user_denoiser(ref)
    info = denoiser.info
    noise = torch.randn(1, info.channels, side, side, generator=torch.Generator().manual_seed(0))
    middle = torch.full((1,), info.n_timesteps // 2)
    try:
        with torch.no_grad():
            eps = denoiser(noise, middle)
    except Exception as error:  # a user's network may raise anything
        raise ValueError(
            f"denoiser {ref!r} failed on a tile of {side} px: {in_one_line(error)}"
        ) from error
    if not bool(torch.isfinite(eps).all()):
        raise ValueError(f"denoiser {ref!r} answered noise with NaN or infinity; check its weights")


def _natural(
    ref: str,
    named: Any,
    field: str,
    usual: int,
) -> int:
    """Return an attribute of the named object that is a whole number from 1."""
    value = getattr(named, field, usual)
    if type(value) is not int or value < 1:
        raise ValueError(f"denoiser {ref!r}: {field} is {value!r}; give a whole number from 1")
    return value


def _sigma_table(ref: str, named: Any) -> Float64:
    """Return alpha_bar = 1/(1 + sigma^2) of noise levels from sigma_min to sigma_max."""
    low = getattr(named, "sigma_min", 0.002)
    high = getattr(named, "sigma_max", 80.0)
    if not 0 < low < high:
        raise ValueError(
            f"denoiser {ref!r}: sigma_min {low} and sigma_max {high} "
            "are no range of noise levels above 0"
        )
    roots = np.linspace(low ** (1 / RHO), high ** (1 / RHO), SIGMA_STEPS)
    sigma = roots**RHO
    return 1.0 / (1.0 + sigma**2)
