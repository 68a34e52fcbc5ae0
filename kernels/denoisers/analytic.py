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

from kernels.denoisers.denoiser_registry import describe
from kernels.denoisers.info import DenoiserInfo
from kernels.schedule import base_alpha_bar

# The stationary prior, roughly the statistics of photographs in [-1, 1]: standard deviation, the
# wavelength above which the 1/f^2 power spectrum is flat (px), and the share of the variance that
# all channels have in common. A change of any of them must change `catalog.ANALYTIC_CONTENT`.
DEVIATION = 0.5
FLAT_ABOVE = 128.0
COMMON_SHARE = 0.9


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
        positive semi-definite.
        """
        n = mean.numel()
        if covariance.shape != (n, n):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}; a mean of {n} values needs ({n}, {n})"
            )
        self.info = info or DenoiserInfo(name="gaussian", channels=mean.shape[0], multiple=1)
        variances, basis = torch.linalg.eigh(covariance.double())
        if variances[0] < -1e-9 * variances[-1]:
            raise ValueError(
                f"covariance has the eigenvalue {variances[0]:.3g}; it must be positive semi-definite"
            )
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
        cells = (
            x_t.double().reshape(batch, c, height // h, h, width // w, w).permute(0, 2, 4, 1, 3, 5)
        )
        residual = cells.reshape(batch, -1, c * h * w) - a * self.mean.reshape(-1)
        eps = residual @ self.basis * (s / (a * a * self.variances + s * s)) @ self.basis.T
        picture: Tensor = eps.reshape(cells.shape).permute(0, 3, 1, 4, 2, 5).reshape(x_t.shape)
        return picture.float()

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
        eps = self._filter(common, channels * COMMON_SHARE, a, s)
        if channels == 1:
            return self._filter(common, 1.0, a, s)
        return eps + self._filter(
            x_t - common, channels / (channels - 1) * (1 - COMMON_SHARE), a, s
        )

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on the device."""
        return type(self)(device)

    def _filter(self, x: Tensor, share: float, a: Tensor, s: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        if size not in self._power:
            self._power[size] = torch.from_numpy(power_spectrum(*size)).float().to(x.device)
        gain = s / (a * a * (share * self._power[size]) + s * s)
        filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=size)
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
    alpha_bar = torch.from_numpy(base_alpha_bar(info.alpha_bar, info.n_timesteps))
    return alpha_bar.sqrt().to(device), (1.0 - alpha_bar).sqrt().to(device)
