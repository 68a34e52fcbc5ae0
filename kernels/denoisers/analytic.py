"""Exact denoisers of Gaussian priors: closed-form truth for tests, and a prior without weights for
dry runs.

For x_0 ~ N(mu, Sigma) and x_t = a x_0 + s eps, the best estimate of the noise is
    E[eps | x_t] = s (a^2 Sigma + s^2)^-1 (x_t - a mu),
diagonal in the eigenvectors of Sigma: the gain of an eigenvalue v is s / (a^2 v + s^2).
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.denoiser_registry import describe
from kernels.schedule import base_alpha_bar

# The stationary prior, roughly the statistics of photographs in [-1, 1]: standard deviation, the
# wavelength above which the 1/f^2 power spectrum is flat (px), and the share of the variance that
# all channels have in common. A change of any of them must change
# `kernels.denoiser_info.ANALYTIC_CONTENT`.
DEVIATION = 0.5
FLAT_ABOVE = 128.0
COMMON_SHARE = 0.9

# Share of the greatest eigenvalue by which rounding may make one negative.
ROUNDING = 1e-9


class GaussianDenoiser:
    """Denoise pictures made of independent blocks, each block N(mean, covariance) over its C h w
    values.

    A picture of many blocks carries as many independent samples through one call of the sampler.
    """

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        info: DenoiserInfo | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Decompose the covariance in float64.

        mean: (C, h, w), the size of a block in px. covariance: (n, n), n = C h w, symmetric,
        positive semi-definite; else ValueError.
        """
        n = mean.numel()
        if covariance.shape != (n, n):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}; "
                f"a mean of {n} values needs ({n}, {n})"
            )
        variances, basis = torch.linalg.eigh(covariance.double())
        smallest = variances[0]
        largest = variances[-1]
        if smallest < -ROUNDING * largest:
            raise ValueError(
                f"covariance has the eigenvalue {smallest:.3g}; it must be positive semi-definite"
            )
        self.info = info or DenoiserInfo(name="gaussian", channels=mean.shape[0], multiple=1)
        self.mean = mean.double().to(device)
        self.variances = variances.clamp(min=0.0).to(device)
        self.basis = basis.to(device)
        self._a, self._s = _levels(self.info, device)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return eps (B, C, H, W) float32; H and W multiples of the block's, else ValueError.
        Computed in float64.
        """
        c, h, w = self.mean.shape
        batch, channels, height, width = x_t.shape
        if channels != c or height % h or width % w:
            raise ValueError(f"picture {tuple(x_t.shape[1:])} is not made of blocks {(c, h, w)}")
        a = self._a[t][:, None, None]
        s = self._s[t][:, None, None]
        split = x_t.double().reshape(batch, c, height // h, h, width // w, w)
        cells = split.permute(0, 2, 4, 1, 3, 5)
        blocks = cells.reshape(batch, -1, c * h * w)

        residual = blocks - a * self.mean.reshape(-1)
        gain = s / (a * a * self.variances + s * s)
        eps = residual @ self.basis * gain @ self.basis.T

        joined = eps.reshape(cells.shape).permute(0, 3, 1, 4, 2, 5)
        return joined.reshape(x_t.shape).float()

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on the device."""
        covariance = self.basis * self.variances @ self.basis.T
        return type(self)(self.mean, covariance, self.info, device)


class StationaryDenoiser:
    """Denoise pictures of any size under a stationary prior with a 1/f^2 power spectrum, periodic
    in the tile.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.info = describe("analytic:")
        self.device = torch.device(device)
        self._a, self._s = _levels(self.info, device)
        self._power: dict[tuple[int, int], Tensor] = {}

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return eps (B, C, H, W) float32, any C, H and W."""
        a = self._a[t].float()[:, None, None, None]
        s = self._s[t].float()[:, None, None, None]
        common = x_t.mean(dim=1, keepdim=True)
        channels = x_t.shape[1]
        if channels == 1:
            return self._filtered(common, 1.0, a, s)
        common_share = channels * COMMON_SHARE
        own_share = channels / (channels - 1) * (1 - COMMON_SHARE)
        eps = self._filtered(common, common_share, a, s)
        return eps + self._filtered(x_t - common, own_share, a, s)

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on the device."""
        return type(self)(device)

    def _filtered(
        self,
        x: Tensor,
        share: float,
        a: Tensor,
        s: Tensor,
    ) -> Tensor:
        """Return eps of the part x of a picture whose spectrum is `share` times the prior's."""
        size = (x.shape[-2], x.shape[-1])
        if size not in self._power:
            power = torch.from_numpy(power_spectrum(*size))
            self._power[size] = power.float().to(x.device)
        variance = share * self._power[size]
        gain = s / (a * a * variance + s * s)
        modes = torch.fft.rfft2(x) * gain
        filtered: Tensor = torch.fft.irfft2(modes, s=size)
        return filtered


def power_spectrum(height: int, width: int) -> NDArray[np.float64]:
    """Return the variance of each orthonormal Fourier mode in rfft2's order, (H, W//2+1); their
    mean is DEVIATION^2.
    """
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.fftfreq(width)[None, :]
    power: NDArray[np.float64] = 1.0 / (fy**2 + fx**2 + FLAT_ABOVE**-2)
    power *= DEVIATION**2 / power.mean()
    return power[:, : width // 2 + 1]


def _levels(info: DenoiserInfo, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return a and s of every base timestep, each (n,) float64."""
    alpha_bar = torch.from_numpy(base_alpha_bar(info.alpha_bar, info.n_timesteps))
    a = alpha_bar.sqrt()
    s = (1.0 - alpha_bar).sqrt()
    return a.to(device), s.to(device)
