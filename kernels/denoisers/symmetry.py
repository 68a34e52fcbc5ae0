"""Average a network over the symmetries of the square, or take one of them at each step.

A network that knows textures and no objects should see a mirrored picture as it sees the picture;
what it makes of them differs by errors of its own, which an average removes. Taking one symmetry
after another along the trajectory does most of that without a further evaluation: each step's error
meets the next one's ("periodical geometric self-ensemble", Zhang et al. 2021, Plug-and-Play Image
Restoration with Deep Denoiser Prior, section 4.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.denoisers.denoiser import Denoiser
from kernels.presets import Ensemble

# Bit 0 mirrors columns, bit 1 rows, bit 2 swaps the two axes (square tiles).
MEMBERS: dict[Ensemble, tuple[int, ...]] = {
    "1": (0,),
    "2": (0, 3),
    "4": (0, 1, 2, 3),
    "8": tuple(range(8)),
}


def symmetric(denoiser: Denoiser, ensemble: Ensemble) -> Denoiser:
    """Return the denoiser itself for ensemble 1, else one that serves it under symmetries."""
    return denoiser if ensemble == "1" else SymmetricDenoiser(denoiser, ensemble)


class SymmetricDenoiser:
    """Serve a network's eps averaged over symmetries, or (cycle) under one that the timestep
    chooses.
    """

    def __init__(self, denoiser: Denoiser, ensemble: Ensemble) -> None:
        self.denoiser = denoiser
        self.ensemble = ensemble
        self.info = denoiser.info

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return eps (B, C, P, P) for square tiles x_t at base timesteps t (B,); raise ValueError
        for other tiles.
        """
        if x_t.shape[-1] != x_t.shape[-2]:
            raise ValueError(
                f"tile {x_t.shape[-2]} x {x_t.shape[-1]}: the symmetries of a square need square tiles"
            )
        if self.ensemble == "cycle":  # no branch on t, which lives on the device
            return _back(self.denoiser(_turned(x_t, t).contiguous(), t), t)
        total: Tensor | None = None
        for member in MEMBERS[self.ensemble]:
            which = torch.full_like(t, member)
            eps = _back(self.denoiser(_turned(x_t, which).contiguous(), t), which)
            total = eps if total is None else total + eps
        assert total is not None, "every ensemble has a member"
        return total / len(MEMBERS[self.ensemble])

    def to(self, device: torch.device | str) -> SymmetricDenoiser:
        """Return this denoiser with its network on `device`."""
        return SymmetricDenoiser(self.denoiser.to(device), self.ensemble)


def _turned(x: Tensor, which: Tensor) -> Tensor:
    """Apply to each tile the symmetry whose bits `which` (B,) holds: columns, rows, then the
    diagonal.
    """
    x = torch.where(_bit(which, 0), x.flip(-1), x)
    x = torch.where(_bit(which, 1), x.flip(-2), x)
    return torch.where(_bit(which, 2), x.transpose(-1, -2), x)


def _back(x: Tensor, which: Tensor) -> Tensor:
    """Undo `_turned`."""
    x = torch.where(_bit(which, 2), x.transpose(-1, -2), x)
    x = torch.where(_bit(which, 1), x.flip(-2), x)
    return torch.where(_bit(which, 0), x.flip(-1), x)


def _bit(which: Tensor, bit: int) -> Tensor:
    return ((which >> bit) & 1).bool()[:, None, None, None]
