"""The methods by name, and what a plan must know of each before anything is computed. torch is not
needed.

Everything that a method does differently from DDNM is in `kernels.sampling.methods` and
`kernels.sampling.gradient_methods`; the loop, the step, time travel, warm start and noise are
shared (`kernels.sampling.sampler`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["posterior", "eps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodInfo:
    """Describe a zero-shot method."""

    name: str
    source: str
    """The paper."""
    form: Form
    """The form of the step that the method was published with, used unless another is asked for."""
    forms: tuple[Form, ...] = ("posterior", "eps")
    """The forms in which it can run."""
    needs_gradient: bool = False
    """Whether every step takes a vector-Jacobian product of the network: 2 to 3 times the time of
    the forward pass and, since all activations of a tile are kept until then, 2 to 4 times the
    memory. On the CPU one tile at a time."""
    draws: int = 1
    """Draws of noise per reverse step."""
    takes: Literal["any", "mask", "spectral"] = "any"
    """Which operators it can restore: any, a mask of pixels, or those whose singular values are
    known (`kernels.sampling.methods.check_singular_values`)."""


METHODS = {
    info.name: info
    for info in (
        MethodInfo(name="ddnm", source="Wang et al. 2023, DDNM", form="posterior"),
        MethodInfo(
            name="repaint",
            source="Lugmayr et al. 2022, RePaint",
            form="posterior",
            draws=2,
            takes="mask",
        ),
        MethodInfo(name="ilvr", source="Choi et al. 2021, ILVR", form="posterior", draws=2),
        MethodInfo(
            name="ddrm",
            source="Kawar et al. 2022, DDRM",
            form="eps",
            forms=("eps",),
            takes="spectral",
        ),
        MethodInfo(name="pigdm", source="Song et al. 2023, PiGDM", form="eps", needs_gradient=True),
        MethodInfo(
            name="dps", source="Chung et al. 2023, DPS", form="posterior", needs_gradient=True
        ),
    )
}


def describe_method(name: str) -> MethodInfo:
    """Return the description of a method; raise ValueError naming the known ones for a name that is
    none.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """Set what single methods leave open; a field is without effect on the others."""

    zeta: float = 1.0
    """dps: length of the gradient step, as published for 1000 steps on 256 x 256 x 3 pixels (0.3 to
    1 there). It grows with the timesteps that a step spans and with the root of the number of
    pixels, since the gradient of a norm does not, and never reaches beyond the point where the
    linearised residual vanishes."""
    eta_b: float = 1.0
    """ddrm: weight of the measurement against the estimate where the step's noise covers the
    measurement's; [0, 1].
    """
    ilvr_stop: int = 0
    """ilvr: base timestep at and below which the state is no longer conditioned; 0 conditions every
    step.
    """
    pigdm_variance: float = 1.0
    """pigdm: variance v of the white prior behind r_t^2 = v s^2 / (a^2 v + s^2); 1 as published
    (r_t = s).
    """

    def __post_init__(self) -> None:
        if not 0 <= self.zeta < float("inf"):
            raise ValueError(
                f"zeta {self.zeta} is no step length; "
                "give a number of at least 0, 0.3 to 1 as published"
            )
        if not 0 <= self.eta_b <= 1:
            raise ValueError(
                f"eta_b {self.eta_b} is outside [0, 1]; 1 trusts the measurement, as published"
            )
        if self.ilvr_stop < 0:
            raise ValueError(
                f"ilvr_stop {self.ilvr_stop} is no base timestep; 0 conditions every step"
            )
        if not 0 < self.pigdm_variance < float("inf"):
            raise ValueError(f"pigdm_variance {self.pigdm_variance} is no variance; 1 as published")
