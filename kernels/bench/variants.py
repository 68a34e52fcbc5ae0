"""Name the networks that are timed, and the ways of running one that are compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.builtin import load_builtin
from kernels.denoisers.denoiser import Denoiser
from kernels.denoisers.guided_diffusion.checkpoints import GuidedDiffusion
from kernels.denoisers.guided_diffusion.published_models import PUBLISHED
from kernels.denoisers.guided_diffusion.unet import UNetConfig, UNetModel

FULL = PUBLISHED["256x256_diffusion_uncond (or lsun)"][0]
# The same family at a size that a CPU core evaluates in a fraction of a second.
SMALL = UNetConfig(
    image_size=128,
    model_channels=64,
    num_res_blocks=1,
    attention_ds=(8,),
    channel_mult=(1, 2, 2, 3),
    num_head_channels=64,
)


def networks() -> tuple[str, ...]:
    """Return the names of the networks that are timed."""
    return "builtin", "guided-diffusion"


def network(name: str, device: str) -> tuple[Denoiser, int]:
    """Return a network on the device and its tile, px; the guided-diffusion one has random weights.

    On a CPU it is a small one. Raises ValueError for an unknown name.
    """
    if name == "builtin":
        return load_builtin(device), 256
    if name != "guided-diffusion":
        raise ValueError(f"no network {name!r} to time; known: {', '.join(networks())}")
    config = SMALL if device == "cpu" else FULL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNetModel(config)
    info = DenoiserInfo(name=name, tile=config.image_size, multiple=config.multiple)
    network = GuidedDiffusion(
        model.eval().requires_grad_(False), info, label=None, timestep_scale=1
    )
    return network.to(device), config.image_size


class Wrapped:
    """A denoiser whose call is replaced (a `Denoiser`)."""

    def __init__(self, info: DenoiserInfo, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.info = info
        self.call = call

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return eps in float32."""
        return self.call(x_t, t).float()

    def to(self, device: torch.device | str) -> Self:
        """Return itself: the network is where it is."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way of running a network."""

    name: str
    dtype: torch.dtype = torch.float32
    """Precision of matrix products and convolutions."""
    autocast: str | None = None
    """Device type of automatic mixed precision."""
    channels_last: bool = False
    compiled: str | None = None
    """Mode of torch.compile; reduce-overhead records CUDA graphs."""
    tf32: bool = False

    @property
    def exact(self) -> bool:
        """Tell whether it is plain float32, the reference."""
        return self == Variant(name=self.name)

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """Return the denoiser run this way; it shares the weights."""
        if self.exact:
            return denoiser
        call: Callable[..., Any] = denoiser.__call__
        if self.channels_last:
            call = _channels_last(call)
        if self.compiled is not None:
            call = _owned(torch.compile(call, mode=self.compiled, dynamic=False))
        return Wrapped(
            denoiser.info,
            call if self.autocast is None else _autocast(call, self.autocast, self.dtype),
        )

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Set the precision of float32 products for the time of a measurement."""
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def variants(device: str) -> list[Variant]:
    """Return what is compared on a device: float32 alone on a CPU."""
    plain = Variant(name="float32")
    if torch.device(device).type != "cuda":
        return [plain]
    half: dict[str, Any] = {"dtype": torch.bfloat16, "autocast": "cuda"}
    return [
        plain,
        Variant(name="tf32", tf32=True),
        Variant(name="tf32 channels_last", tf32=True, channels_last=True),
        Variant(name="tf32 compiled", tf32=True, compiled="default"),
        Variant(name="bfloat16", **half),
        Variant(name="bfloat16 channels_last", channels_last=True, **half),
        Variant(name="bfloat16 compiled", compiled="default", **half),
        Variant(name="bfloat16 compiled, CUDA graphs", compiled="reduce-overhead", **half),
    ]


def _channels_last(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, t: call(x.contiguous(memory_format=torch.channels_last), t)


def _autocast(
    call: Callable[..., Tensor], device: str, dtype: torch.dtype
) -> Callable[..., Tensor]:
    def run(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(device, dtype=dtype):
            return call(x, t)

    return run


def _owned(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Copy the answer: the memory of a CUDA graph's output is written again by the next call."""
    return lambda x, t: call(x, t).clone()
