"""What a tile must satisfy: the guide of the coarser level, the measurement, and the pixels already
known.

A `Problem` is a batch: every tensor has the tiles along its first axis, so that tiles can be
admitted to a batch and retired from it between two steps. Projection order is guide, measurement,
known overlap (the paper's Algorithm 3): the last one always holds, and with aligned cells and no
measurement noise all of them do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from kernels.operators.bounded_change import Limits
from kernels.operators.elementary import AveragePool, Identity
from kernels.operators.linear_operator import Free, Operator, Weight

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """Require A x = y, up to Gaussian noise in y."""

    operator: Operator
    y: Tensor
    """(B, C', H/scale, W/scale) float32 in [-1, 1], the tile's aligned window of the measurement.
    """
    sigma_y: float = 0.0
    """Standard deviation of the noise in y, in the unit of the [-1, 1] range; 0: exact."""
    tolerance: float = 0.0
    """How far A x may stay from y at the end, same unit, for operators that pins can cut; y itself
    is rounded.
    """

    def __post_init__(self) -> None:
        if not self.sigma_y >= 0:
            raise ValueError(f"sigma_y {self.sigma_y} is no standard deviation; give 0 or more")

    def project(self, x0: Tensor, lam: Weight | None = None) -> Tensor:
        """Return x0 + lam A+(y - A x0) (paper Eq. 9; DDNM+ Eq. 17 with lam); lam None is 1 and
        exact.

        x0: (B, C, H, W). lam: broadcasts to x0.
        """
        if lam is None:
            return self.operator.project(x0, self.y)
        residual = self.y - self.operator.A(x0)
        return x0 + lam * self.operator.pinv(residual)


def guide(target: Tensor, factor: int) -> Measurement:
    """Require that cells of factor x factor pixels average to the coarser level's result under the
    tile (paper Eq. 12).

    target: (B, C, H/factor, W/factor) float32.
    """
    return Measurement(AveragePool(factor), target)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Require pixels that earlier tiles have produced (paper Eq. 11)."""

    mask: Tensor
    """(B, 1, H, W) bool, true where the pixel is known."""
    value: Tensor
    """(B, C, H, W) float32; what it holds where the mask is false is never used, NaN included."""

    def project(self, x0: Tensor) -> Tensor:
        """Return x0 (B, C, H, W) overwritten by the known pixels, bit for bit."""
        return torch.where(self.mask, self.value, x0)


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """Let clean estimates go as far outside of [-1, 1] as what was measured exactly does.

    A picture is drawn between black and white. Where measured values lie beyond, an estimate that
    ends there has no detail left but what the projection brings: the cells of the measurement.
    """

    least: Tensor
    """(B, 1, 1, 1), at most -1."""
    most: Tensor

    @classmethod
    def of(cls, y: Tensor) -> Reach:
        """Return that of measurements (B, C, h, w), NaN where unknown."""
        known = torch.nan_to_num(y)
        least = known.amin(dim=(1, 2, 3), keepdim=True).clamp(max=-1.0)
        return cls(least, known.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1.0))

    def clamp(self, x0: Tensor) -> Tensor:
        """Return x0 (B, C, H, W) between the ends of its tile."""
        return torch.minimum(torch.maximum(x0, self.least), self.most)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Hold the constraints of a batch of tiles; None for those that the whole batch lacks."""

    guide: Measurement | None = None
    measurement: Measurement | None = None
    known: Known | None = None
    reach: Reach | None = None
    """How far the clean estimate may go; None: from -1 to 1."""

    def within(self, x0: Tensor) -> Tensor:
        """Return a clean estimate (B, C, H, W) within its reach."""
        return x0.clamp(-1.0, 1.0) if self.reach is None else self.reach.clamp(x0)

    @property
    def constraints(self) -> tuple[Measurement | Known, ...]:
        """Return the constraints that there are, in the order of their projection."""
        candidates = (self.guide, self.measurement, self.known)
        return tuple(constraint for constraint in candidates if constraint is not None)

    @property
    def alignment(self) -> int:
        """Return the number of pixels that the sides of a tile must be multiples of."""
        return math.lcm(*(m.operator.alignment for m in self._measurements))

    @property
    def _measurements(self) -> tuple[Measurement, ...]:
        return tuple(m for m in (self.guide, self.measurement) if m is not None)

    def project(self, x0: Tensor, lam: Weight | None = None) -> Tensor:
        """Project x0 (B, C, H, W) on every constraint in turn; lam weighs the measurement only."""
        if self.guide is not None:
            x0 = self.guide.project(x0)
        if self.measurement is not None:
            # Measurements across the pinned border see what will be there.
            if self.measurement.tolerance > 0 and self.known is not None:
                x0 = self.known.project(x0)
            x0 = self.measurement.project(x0, lam)
        if self.known is not None:
            x0 = self.known.project(x0)
        return x0

    def close(self, x0: Tensor) -> Tensor:
        """Project x0 (B, C, H, W) on everything that is exact: all but a noisy measurement."""
        noisy = self.measurement is not None and self.measurement.sigma_y > 0
        exact = replace(self, measurement=None) if noisy else self
        return exact.project(x0)

    def finish(
        self,
        x: Tensor,
        rows: Tensor,
        cols: Tensor,
        limits: Limits | None = None,
    ) -> Tensor:
        """Return the result x with its measurement holding on the free pixels beside the pinned
        ones (method 8.7b).

        rows (B, H), cols (B, W): bool, those that no earlier tile has reached (`Free`). limits:
        what the free pixels can be stored as.
        """
        m = self.measurement
        if m is None or m.sigma_y > 0 or m.tolerance == 0:
            return x
        if self.known is None:
            pinned = torch.zeros_like(x[:, :1], dtype=torch.bool)
        else:
            pinned = self.known.mask

        # One by one: how many steps a tile takes must not depend on its batch.
        tiles = []
        for i in range(len(x)):
            row = slice(i, i + 1)
            measurement = select(m, [i])
            y = measurement.y.to(x.device)
            free = Free(~pinned[row].to(x.device), rows[row], cols[row])
            tile = measurement.operator.finish(x[row], y, free, m.tolerance)
            ends = None if limits is None else limits.of_tile(i)
            if ends is not None and ends.touched(tile, free.pixels):
                wide = ends.loosened(m.tolerance)
                tile = measurement.operator.finish_within(tile, y, free, wide, ends)
            tiles.append(tile)
        return torch.cat(tiles)

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless every constraint fits a batch of tiles of shape (B, C, H, W)."""
        batch, channels, height, width = shape
        if any(len(tensor) != batch for tensor in _tensors(self)):
            raise ValueError(
                f"a tensor of the problem is not of batch {batch}; give every tile its own row"
            )
        if height % self.alignment or width % self.alignment:
            raise ValueError(
                f"tile {height} x {width} is not a multiple of {self.alignment} px; "
                "choose one that is"
            )
        picture = torch.zeros((batch, channels, height, width))
        for m in self._measurements:
            wanted = to(m, "cpu").operator.A(picture).shape
            if wanted != m.y.shape:
                raise ValueError(
                    f"the target has shape {tuple(m.y.shape)}, "
                    f"but its operator measures {tuple(wanted)}"
                )
        self._check_known(picture)

    def _check_known(self, picture: Tensor) -> None:
        if self.known is None:
            return
        mask = self.known.mask
        value = self.known.value
        wanted = picture[:, :1].shape
        fits = value.shape == picture.shape and mask.shape == wanted
        if mask.dtype != torch.bool or not fits:
            raise ValueError(
                f"known overlap has mask {mask.dtype} {tuple(mask.shape)} "
                f"and value {tuple(value.shape)}; "
                f"give a bool mask {tuple(wanted)} and a value {tuple(picture.shape)}"
            )

    def with_known(self, x: Tensor) -> Problem:
        """Return the problem with an empty known overlap for the batch x (B, C, H, W), if it has
        none.
        """
        if self.known is not None:
            return self
        nothing = torch.zeros_like(x[:, :1], dtype=torch.bool)
        return replace(self, known=Known(nothing, torch.zeros_like(x)))

    def select(self, rows: Sequence[int]) -> Problem:
        """Return the problem of the given tiles of the batch, in that order."""
        return select(self, rows)

    @staticmethod
    def cat(problems: Sequence[Problem]) -> Problem:
        """Join batches; raise ValueError when they differ in anything but the tiles' own data."""
        return cat(problems)

    def to(self, device: torch.device | str) -> Problem:
        """Return the problem on the device, its tensors contiguous."""
        return to(self, device)


def ddnm_plus(
    alpha: Tensor,
    tau: Tensor,
    eta: Tensor,
    sigma_y: float,
    s: float | Tensor,
    eta_b: float = 1.0,
    noise_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return how much of the correction to apply, and how much fresh noise to add beside it, in the
    range space.

    The correction injects noise of standard deviation alpha sigma_y / s into the next state, which
    may hold tau. If tau allows it, correct fully and add the missing noise; else correct by less,
    so that injected and fresh noise together are tau. alpha: weight of x^ in the step. eta: the
    part of tau that must stay fresh (0 in form `posterior`). s: singular value of the operator or a
    map of it, whose zeros do not matter. noise_scale: factor of every draw; what it takes from the
    fresh noise is room for the measurement's own. Source: DDNM, section 3.3, per singular value;
    method: lambda = 1 if tau >= alpha sigma_y / s, else tau sqrt(1 - eta^2) s / (alpha sigma_y).
    DDRM's three cases (Kawar et al. 2022, Eq. 7 and 8) are the same two, with lambda = eta_b in
    place of 1.
    """
    if isinstance(s, Tensor):
        s = torch.where(s > 0, s, 1.0)
    injected = alpha * sigma_y / s
    room = tau >= injected

    kept = torch.sqrt(1.0 - (noise_scale * eta) ** 2)
    partial = tau * kept / injected
    lam = torch.where(room, eta_b, partial)

    spent = eta_b * injected
    missing = (tau * tau - spent * spent).clamp(min=0.0)
    fresh = torch.where(room, torch.sqrt(missing), tau * eta)
    return lam, fresh


class RangeSpace(NamedTuple):
    """Say how one step with a noisy measurement treats the range space of the operator."""

    operator: Operator
    """The measurement's own, or the identity in the scalar form, which takes every direction for a
    measured one.
    """
    lam: Weight
    """Share of the correction to apply."""
    fresh: Weight
    """Standard deviation of the fresh noise in the range space; the network's own eps is not kept
    there.
    """


def range_space(
    measurement: Measurement,
    scalar: bool,
    alpha: Tensor,
    tau: Tensor,
    eta: Tensor,
    x: Tensor,
    noise_scale: float = 1.0,
) -> RangeSpace:
    """Return the DDNM+ weights of a step from its coefficients (`ddnm_plus`), each (B, 1, 1, 1); x:
    the batch.
    """
    operator: Operator = Identity() if scalar else measurement.operator

    def shares(s: float | Tensor) -> tuple[Tensor, Tensor]:
        return ddnm_plus(alpha, tau, eta, measurement.sigma_y, s, noise_scale=noise_scale)

    lam, fresh = operator.weights(x, shares)
    return RangeSpace(operator, lam, fresh)


def select(batch: T, rows: Sequence[int]) -> T:
    """Take tiles out of a batch: tensors by their first axis, tuples by entry, dataclasses field by
    field.
    """
    if isinstance(batch, Tensor):
        return cast(T, batch[list(rows)])
    if isinstance(batch, tuple):
        return cast(T, tuple(batch[i] for i in rows))
    if _per_tile(batch):
        selected = _rebuild(batch, lambda name: select(getattr(batch, name), rows))
        return cast(T, selected)
    return batch


def cat(batches: Sequence[T]) -> T:
    """Join batches along the tiles; raise ValueError where they differ in what all tiles of a batch
    share.
    """
    first: Any = batches[0]
    kinds = {type(batch) for batch in batches}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(
            f"tiles with {names} cannot share a batch; group them by level and kind of constraint"
        )
    if isinstance(first, Tensor):
        tensors = cast(list[Tensor], list(batches))
        return cast(T, torch.cat(tensors))
    if isinstance(first, tuple):
        tuples = cast(Sequence[tuple[Any, ...]], batches)
        return cast(T, sum(tuples, ()))
    if _per_tile(first):
        joined = _rebuild(first, lambda name: cat([getattr(batch, name) for batch in batches]))
        return cast(T, joined)
    if any(b != first for b in batches):
        raise ValueError(
            f"tiles with {first} and another value cannot share a batch; group them by level"
        )
    return cast(T, first)


def to(batch: T, device: torch.device | str) -> T:
    """Move every tensor of a batch to the device, contiguous, so that no result depends on how it
    was sliced.
    """
    if isinstance(batch, Tensor):
        return cast(T, batch.to(device).contiguous())
    if _per_tile(batch):
        moved = _rebuild(batch, lambda name: to(getattr(batch, name), device))
        return cast(T, moved)
    return batch


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif _per_tile(batch):
        for entry in fields(batch):
            yield from _tensors(getattr(batch, entry.name))


def _per_tile(batch: Any) -> bool:
    """Tell whether to look into a value for the tiles' own data: not where it says that a whole
    batch shares it.
    """
    return is_dataclass(batch) and not getattr(batch, "shared", False)


def _rebuild(batch: Any, value: Callable[[str], Any]) -> Any:
    """Return a dataclass with every field replaced by the value of its name."""
    changes = {entry.name: value(entry.name) for entry in fields(batch)}
    return replace(batch, **changes)
