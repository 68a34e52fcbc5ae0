"""Compressed-sensing measurements on disk.

A zarr array (kept coefficients of all bands, blocks down, blocks across), float32, in the unit of
samples mapped to [-1, 1]; the coefficients of band 0 come first. Its attributes say what was
measured, so that the file needs no companion: see `CsInfo`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import FormatError

if TYPE_CHECKING:  # loaded by whoever writes one
    import zarr

KEY = "gigarestore_cs"
# Blocks along a side of one stored chunk.
CHUNK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CsInfo:
    """What a measurement says of itself; sizes in px of the picture."""

    block: int
    ratio: float
    seed: int
    """Draws the kept coefficients and the signs (kernels.operators.hadamard.drawn)."""
    height: int
    width: int
    bands: int
    dtype: str
    """Of the picture that was measured: what grey levels are."""

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks down and across; the last ones are completed by reflection."""
        return -(-self.height // self.block), -(-self.width // self.block)


def inspect_coefficients(path: Path) -> CsInfo:
    """Describe a measurement; raises FormatError, one line, for what is none."""
    try:
        document: dict[str, Any] = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        info = CsInfo(**document["attributes"][KEY])
        depth, *blocks = document["shape"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FormatError(
            f"{path}: not a compressed-sensing measurement; "
            "make one with `gigarestore degrade IN OUT.zarr --task cs`"
        ) from None
    if tuple(blocks) != info.blocks or depth % info.bands:
        raise FormatError(
            f"{path}: {depth} x {blocks} coefficients do not fit {info}; get the measurement again"
        )
    return info


def create_coefficients(
    path: Path,
    info: CsInfo,
    kept: int,
) -> zarr.Array:
    """Create a measurement to be written by blocks; its folder must be absent or empty."""
    import zarr

    depth = kept * info.bands
    rows, cols = info.blocks
    return zarr.create_array(
        store=path,
        shape=(depth, rows, cols),
        chunks=(depth, min(CHUNK, rows), min(CHUNK, cols)),
        dtype="float32",
        fill_value=float("nan"),
        attributes={KEY: asdict(info)},
    )
