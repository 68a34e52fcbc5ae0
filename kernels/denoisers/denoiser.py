"""The one interface between the sampler and any network, and the loading of a denoiser by its
reference.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

from kernels.denoiser_info import DenoiserInfo, split_ref


class Denoiser(Protocol):
    """Estimate the noise in a noisy picture; samplers know no more of a network than this."""

    info: DenoiserInfo

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return eps of x_t = a x_0 + s eps, both (B, C, H, W) float32, at the base timesteps t
        (B,) int64.
        """
        ...

    def to(self, device: torch.device | str) -> Self:
        """Return the denoiser on the device."""
        ...


def load_denoiser(
    ref: str,
    device: torch.device | str = "cpu",
    label: int | None = None,
) -> Denoiser:
    """Load the denoiser that `ref` names (`kernels.denoiser_info` lists the schemes); label: the
    class of a class-conditional one.

    Raises ValueError for an unknown scheme (naming the known ones) or a file that is not such a
    checkpoint.
    """
    scheme, path = split_ref(ref)
    if scheme == "builtin":
        from kernels.denoisers.builtin import load_builtin

        return load_builtin(device)
    if scheme == "analytic":
        from kernels.denoisers.analytic import StationaryDenoiser

        return StationaryDenoiser(device=device)
    if scheme == "prior":
        from kernels.denoisers.builtin import load_prior

        return load_prior(path, device)
    if scheme == "diffusers":
        from kernels.denoisers.diffusers import load_diffusers

        return load_diffusers(path, device, label)
    if scheme in ("module", "sigma"):
        from kernels.denoisers.user import load_user_denoiser

        return load_user_denoiser(ref, device)
    from kernels.denoisers.guided_diffusion.checkpoints import load_guided_diffusion

    if label is None:
        return load_guided_diffusion(path, device)
    return load_guided_diffusion(path, device, label=label)


def evaluate(denoiser: Denoiser, x: Tensor, timesteps: Tensor) -> Tensor:
    """Return eps (B, C, H, W), contiguous; on the CPU tile by tile.

    A convolution of the same tile differs in its last bits with the size of the batch, which on the
    CPU buys nothing. Every tile gets memory of its own, so that not even its alignment depends on
    its place in the batch.
    """
    if x.device.type != "cpu" or len(x) == 1:
        return denoiser(x, timesteps).contiguous()
    rows = [slice(i, i + 1) for i in range(len(x))]
    # Not in a loop with names: the traceback of a lack of memory would hold what they hold.
    return torch.cat([denoiser(x[row].clone(), timesteps[row]).contiguous() for row in rows])
