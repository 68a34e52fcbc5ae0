"""How exactly an operator's measurements can hold on pixels stored as whole grey levels, and how
far A+ goes.
"""

from __future__ import annotations

import numpy as np

from kernels.operators.stencil import Stencil, rounding_gain

# A stored value is within half a grey level of what was measured or restored.
HALF = 0.5
# Standard deviations of rounding carried through A that a whole gigapixel stays within.
DEVIATIONS = 6.0
# Singular values of a blur up to this are left to the network: rounding of 8 bit (16 bit) divided
# by it stays small.
TRUNCATED = {"uint8": 0.03, "uint16": 0.001, "int16": 0.001, "float32": 0.001}
# A decimation by Keys' kernel has none that small.
DECIMATION = 1e-5
# Share of the range by which averages of float32 pixels may miss: some ulps of values up to 2.
FLOAT = 2.0**-18
# Least tolerance that a blur is held to before storing, levels: demanding less costs more noise
# than it is worth.
LEAST = 0.15
# Where more than a third of a blur's singular values are below this, y's own rounding lies beyond
# its reach: the true picture leaves up to half a level, and nothing less can be asked for. A tenth
# is left to the projection's effort.
HOPELESS = (1e-3, 1 / 3)
LOOSE = 0.9 * HALF


# Pixels of margin beyond a blur's reach with more than 8 bit, at most (least_margin).
DEEP_MARGIN = 12


def least_margin(stencil: Stencil, dtype: str | None) -> int:
    """Return the outer pixels of a window that it must leave to the next one, so that both see what
    overlaps, px.

    What a decimation commits must suit a few cells more beyond the border, each ten times less. The
    detail that a blur leaves to the network ends at the window's border; continued by the next
    tile, what is left of it at the owned box's border cannot be mended any more. Inwards it dies
    out geometrically (by 1.65 a pixel for a Gaussian of 1 px), and 16 bit has 257 times more of it,
    in grey levels, to lose; so have floats.
    """
    if stencil.scale > 1:
        return 8 * stencil.scale
    return stencil.reach + (
        min(2 * stencil.reach, DEEP_MARGIN) if dtype not in (None, "uint8") else 0
    )


def threshold(stencil: Stencil, dtype: str) -> float:
    """Return the singular value below which A+ truncates."""
    return TRUNCATED[dtype] if stencil.scale == 1 else DECIMATION


def tolerance(stencil: Stencil, dtype: str) -> float:
    """Return how far A x may stay from y before the result is stored, grey levels (figures:
    docs/decisions/operators.md).
    """
    if stencil.scale > 1:
        return LEAST / 3
    if _lost_share(stencil) > HOPELESS[1]:
        return LOOSE
    return max(HALF - DEVIATIONS * rounding_gain(stencil), LEAST)


def limit(stencil: Stencil | None, dtype: str, levels: float) -> float:
    """Return how far A x of the stored picture may be from y: half a level, or tolerance plus
    rounding, grey levels.

    Storing rounds every pixel by up to half a level, A x by at most sum |k| / 2, and by DEVIATIONS
    of its own standard deviation |k|_2 / sqrt(12) in no measurement of a gigapixel: 0.14 levels for
    a mean over 9 x 9 px, 0.49 (0.24) for a Gaussian of 1 px (2 px). A blur is therefore held to
    less than half a level before it is stored. levels: from black to white. Floats are stored as
    they are restored, with the rounding of float32 in [-1, 1].
    """
    if dtype == "float32" and stencil is None:
        return FLOAT * levels
    if stencil is None:
        return HALF
    return max(HALF, tolerance(stencil, dtype) + DEVIATIONS * rounding_gain(stencil))


def _lost_share(stencil: Stencil) -> float:
    """Return the share of frequencies at which the kernel passes less than `HOPELESS[0]`."""
    response = np.abs(np.fft.rfft2(stencil.weights, s=(256, 256)))
    return float((response < HOPELESS[0]).mean())
