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
    if ensemble == "1":
        return denoiser
    return SymmetricDenoiser(denoiser, ensemble)


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
        height, width = x_t.shape[-2:]
        if height != width:
            raise ValueError(
                f"tile {height} x {width}: the symmetries of a square need square tiles"
            )
        if self.ensemble == "cycle":
            # No branch on t, which lives on the device: its last bits say how to turn.
            return self._under(t, x_t, t)

        members = MEMBERS[self.ensemble]
        total = self._under(torch.full_like(t, members[0]), x_t, t)
        for member in members[1:]:
            which = torch.full_like(t, member)
            total = total + self._under(which, x_t, t)
        return total / len(members)

    def _under(
        self,
        which: Tensor,
        x_t: Tensor,
        t: Tensor,
    ) -> Tensor:
        """Return eps of the tiles turned as `which` (B,) says, turned back."""
        turned = _turned(x_t, which).contiguous()
        eps = self.denoiser(turned, t)
        return _back(eps, which)

    def to(self, device: torch.device | str) -> SymmetricDenoiser:
        """Return this denoiser with its network on `device`."""
        return SymmetricDenoiser(self.denoiser.to(device), self.ensemble)


def _turned(x: Tensor, which: Tensor) -> Tensor:
    """Apply to each tile the symmetry whose bits `which` (B,) holds: columns, rows, then the
    diagonal.
    """
    mirrored, upturned, swapped = _bits(which)
    x = torch.where(mirrored, x.flip(-1), x)
    x = torch.where(upturned, x.flip(-2), x)
    return torch.where(swapped, x.transpose(-1, -2), x)


def _back(x: Tensor, which: Tensor) -> Tensor:
    """Undo `_turned`."""
    mirrored, upturned, swapped = _bits(which)
    x = torch.where(swapped, x.transpose(-1, -2), x)
    x = torch.where(upturned, x.flip(-2), x)
    return torch.where(mirrored, x.flip(-1), x)


def _bits(which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three lowest bits of `which` (B,), each (B, 1, 1, 1) bool."""
    which = which[:, None, None, None]
    mirrored = (which & 1).bool()
    upturned = (which >> 1 & 1).bool()
    swapped = (which >> 2 & 1).bool()
    return mirrored, upturned, swapped
