"""The sampler on tensors in memory: no tiles, no files, no levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.denoiser import Denoiser, load_denoiser
from kernels.denoisers.denoiser_registry import describe
from kernels.denoisers.user import UserDenoiser
from kernels.noise import KeyedNoise
from kernels.operators.linear_operator import Operator
from kernels.sampling.constraints import Measurement, Problem, select
from kernels.sampling.method_registry import MethodConfig, describe_method
from kernels.sampling.sampler import SamplerConfig
from kernels.sampling.sampler import sample as sample_tiles
from kernels.schedule import (
    Schedule,
    base_alpha_bar,
    log_sigma_timesteps,
    respaced_timesteps,
    time_travel,
)
from orchestrator.api.job_options import Form, MethodName
from orchestrator.errors import PlanError

DenoiserInput: TypeAlias = str | Denoiser | Callable[[Tensor, Tensor], Tensor]
"""A reference, an object with `info`, or a function eps(x_t, t)."""

# The paper's number of steps; more is slower and changes little.
STEPS = 100


def sample(
    denoiser: DenoiserInput,
    operator: Operator,
    y: Tensor | np.typing.NDArray[Any],
    *,
    method: MethodName = "ddnm",
    steps: int = STEPS,
    form: Form | None = None,
    eta: float | Literal["ddpm", "analytic"] = 0.85,
    sigma: float = 0.0,
    seed: int = 0,
    travel: tuple[int, int] | None = None,
    shape: tuple[int, int, int] | None = None,
    start: int | None = None,
    x_init: Tensor | None = None,
    spacing: Literal["uniform", "log_sigma"] = "uniform",
    noise_scale: float = 1.0,
    clip: bool = True,
    ddnm_plus: Literal["projector", "scalar"] = "projector",
    zeta: float = 1.0,
    eta_b: float = 1.0,
    ilvr_stop: int = 0,
    eps_power: Sequence[float] | None = None,
    label: int | None = None,
    alpha_bar: str | Sequence[float] = "linear",
    device: torch.device | str | None = None,
) -> Tensor:
    """Sample pictures x with A x = y; return them, (B, C, H, W) float32 on the device, unclipped.

    denoiser: "builtin" or another reference, an object of `kernels.denoisers.denoiser.Denoiser`, or
    a function eps(x_t, t) of (B, C, H, W) float32 and base timesteps (B,) int64, made for the
    schedule `alpha_bar` (a name or its table). operator: A, one of `kernels.operators` or of
    `gigarestore.operators`. y: (B, C', h, w), floats in [-1, 1]. shape: (C, H, W) px of the result;
    by default the network's channels and y's sides times the operator's scale.

    method:
      ddnm     projects the clean estimate of every step on A x = y (Wang et al. 2023); with sigma,
               by singular values (DDNM+). Any operator.
      repaint  overwrites the state's known pixels, noised (Lugmayr et al. 2022). Masks only.
      ilvr     corrects the state by the noised measurement down to timestep `ilvr_stop` (Choi et
               al. 2021). Any operator, sigma 0.
      ddrm     weighs measurement and estimate by singular value with `eta_b` (Kawar et al. 2022).
               Operators whose singular values are known; form eps.
      pigdm    follows the gradient of a pseudo-inverse guidance (Song et al. 2023); form eps.
      dps      follows the gradient of |y - A x| by steps of length `zeta` (Chung et al. 2023).

    steps: base timesteps kept, spaced by `spacing`. form, eta, noise_scale: of a step, see
    `SamplerConfig`; eta "analytic" needs eps_power. clip: clamp the clean estimate to [-1, 1]
    before it is projected; DDRM was published without. ddnm_plus: noise by range and null space, or
    by one number as DDNM's Eq. 17. sigma: standard deviation of y's noise, in the unit of [-1, 1].
    travel: (length, repeat) of time travel. start: base timestep of a warm start from `x_init`
    (B, C, H, W), by default A+ y; None starts from noise. label: class of a conditional network.

    All randomness comes from `seed` and an image's place in the batch: neither torch's generators
    nor the other images of the batch matter. Raises ValueError on one line for what does not fit.

    >>> import gigarestore as gr, torch
    >>> y = torch.zeros(1, 3, 16, 16)
    >>> gr.sample("builtin", gr.operators.average_pool(4), y, steps=2).shape
    torch.Size([1, 3, 64, 64])
    """
    measured = _batch(y)
    target = torch.device(device) if device is not None else measured.device
    network = _network(denoiser, target, label, alpha_bar, shape)
    picture = shape or _usual_shape(network, operator, measured)
    config = SamplerConfig(
        **_process(network.info, steps, start, spacing, travel),
        method=method,
        parameters=MethodConfig(zeta=zeta, eta_b=eta_b, ilvr_stop=ilvr_stop),
        form=form or describe_method(method).form,
        eta=eta,
        eps_power=None if eps_power is None else tuple(eps_power),
        noise_scale=noise_scale,
        clip=clip,
        ddnm_plus=ddnm_plus,
    )
    operator = _for_batch(operator, len(measured))
    if start is not None and x_init is None:
        x_init = operator.pinv(measured)
    return sample_tiles(
        network,
        Problem(measurement=Measurement(operator, measured, sigma)),
        config,
        KeyedNoise(seed),
        [(0, 0, place) for place in range(len(measured))],
        picture,
        x_init=x_init,
        device=target,
    )


def _batch(y: Any) -> Tensor:
    """Return y as float32; raises PlanError for what is no batch of measurements."""
    measured = torch.as_tensor(np.asarray(y) if not isinstance(y, Tensor) else y)
    if measured.ndim != 4 or not measured.is_floating_point() or not len(measured):
        raise PlanError(
            f"y= has shape {tuple(measured.shape)} and dtype {measured.dtype}; give floats in "
            "[-1, 1] of shape (B, C, h, w)"
        )
    return measured.float()


def _network(
    denoiser: DenoiserInput,
    device: torch.device,
    label: int | None,
    alpha_bar: str | Sequence[float],
    shape: tuple[int, int, int] | None,
) -> Denoiser:
    if isinstance(denoiser, str):
        if label is not None:
            describe(denoiser, label)  # refuses a class that the network does not know
        return load_denoiser(denoiser, device, label)
    if label is not None:
        raise PlanError("label= is for a denoiser given by its reference, which loads that class")
    if hasattr(denoiser, "info"):
        return cast(Denoiser, denoiser).to(device)
    if not callable(denoiser):
        raise PlanError(
            f"denoiser= is a {type(denoiser).__name__}; give a reference such as 'builtin', an "
            "object with `info`, or a function eps(x_t, t)"
        )
    table = alpha_bar if isinstance(alpha_bar, str) else tuple(map(float, alpha_bar))
    count = 1000 if isinstance(table, str) else len(table)
    channels = 3 if shape is None else shape[0]
    name = getattr(denoiser, "__name__", type(denoiser).__name__)
    info = DenoiserInfo(
        name=name, channels=channels, multiple=1, alpha_bar=table, n_timesteps=count
    )
    return UserDenoiser(denoiser, info, takes_sigma=False).to(device)


def _usual_shape(network: Denoiser, operator: Operator, y: Tensor) -> tuple[int, int, int]:
    height, width = y.shape[2:]
    return network.info.channels, height * operator.scale, width * operator.scale


def _process(
    info: DenoiserInfo,
    steps: int,
    start: int | None,
    spacing: str,
    travel: tuple[int, int] | None,
) -> dict[str, Any]:
    """Return the schedule of the kept timesteps and the sequence in which they are visited."""
    table = base_alpha_bar(info.alpha_bar, info.n_timesteps)
    if spacing == "log_sigma":
        first = len(table) - 1 if start is None else start
        timesteps = log_sigma_timesteps(table, first, steps)
    else:
        timesteps = respaced_timesteps(len(table), steps, start)
    times = time_travel(len(timesteps), *(travel or (1, 1)))
    return {"schedule": Schedule.from_timesteps(table, timesteps), "times": tuple(times)}


def _for_batch(operator: Operator, count: int) -> Operator:
    """Return an operator that was made for one picture, for `count` of them; others as they are."""
    if count == 1:
        return operator
    try:
        select(operator, [1])
    except IndexError:  # its tensors have one row
        return select(operator, [0] * count)
    return operator
