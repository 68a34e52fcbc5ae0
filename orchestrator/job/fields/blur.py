"""What --blur says, as a stencil: a named kernel, or a kernel file (image: normalised; .npy or
text: must sum to 1).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels.operators.stencil import Stencil, anisotropic, from_weights, gaussian, uniform
from orchestrator.errors import PlanError
from storage.box import Box
from storage.byte_source import located
from storage.readers.reader_registry import open_image

NAMED = ("uniform", "gaussian", "anisotropic")
FORMS = "uniform:TAPS, gaussian:SIGMA[:TAPS], anisotropic:SIGMA_Y,SIGMA_X[:TAPS] or a kernel file"


def read_blur(text: str) -> Stencil:
    """Read --blur; raises PlanError on one line."""
    kind, _, rest = text.partition(":")
    try:
        match kind:
            case "uniform":
                return uniform(int(rest))
            case "gaussian":
                sigma, taps = _numbers(rest)
                return gaussian(float(sigma), taps)
            case "anisotropic":
                sigmas, taps = _numbers(rest)
                along_y, along_x = sigmas.split(",")
                return anisotropic(float(along_y), float(along_x), taps)
    except ValueError as err:
        known = str(err) if "blur" in str(err) else f"known: {FORMS}"
        raise PlanError(f"--blur {text!r} is no blur: {known}") from None
    try:
        return _read_file(Path(text))
    except ValueError as err:
        raise PlanError(f"--blur {text}: {err}") from None


def absolute_blur(text: str) -> str:
    """Return --blur with the path of a kernel file made absolute, so that it holds in
    every folder.
    """
    return text if text.partition(":")[0] in NAMED else located(text)


def kernel_of(stencil: Stencil) -> tuple[tuple[float, ...], ...]:
    """Return the kernel as plain numbers that a job file keeps."""
    return tuple(tuple(float(w) for w in row) for row in stencil.weights)


def _numbers(rest: str) -> tuple[str, int | None]:
    values, _, taps = rest.partition(":")
    return values, int(taps) if taps else None


def _read_file(path: Path) -> Stencil:
    if not path.exists():
        raise ValueError(f"no such file and no known blur; give {FORMS}")
    if path.suffix == ".npy":
        return from_weights(_plain(np.load(path, allow_pickle=False)), normalise=False)
    if path.suffix in (".txt", ".csv"):
        delimiter = "," if path.suffix == ".csv" else None
        return from_weights(np.loadtxt(path, delimiter=delimiter, ndmin=2), normalise=False)
    reader = open_image(path)
    info = reader.info
    pixels = reader.read(Box(0, 0, info.height, info.width))
    reader.close()
    return from_weights(_plain(pixels.mean(axis=0, dtype=np.float64)), normalise=True)


def _plain(weights: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.asarray(weights, dtype=np.float64)
