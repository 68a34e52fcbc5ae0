"""Read what a prior file says of itself, without torch: where it comes from, what it knows, which
images it has seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from kernels.denoiser_info import BUILTIN_WEIGHTS, split_ref

Metadata = Mapping[str, str]
# Standard deviations of log residual above its mean at which a prior is said not to know an image.
FAR = 3.0
# Validation pictures of one slide resemble each other more than its other parts do: never assume
# less spread than this.
LEAST_SPREAD = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainStatistics:
    """Say what a prior's residual (kernels.denoisers.domain_statistics) is on pictures that it
    knows.
    """

    sigma: float
    """Noise level of the measurement, in the [-1, 1] range."""
    mean: float
    """Geometric mean of the residual over the pictures."""
    spread: float
    """Standard deviation of its logarithm."""
    largest: float
    pictures: int

    @classmethod
    def of(cls, residuals: Sequence[float], sigma: float) -> DomainStatistics:
        """Summarise the residuals of pictures, each above 0."""
        logs = np.log(np.maximum(residuals, 1e-6))
        return cls(
            sigma=sigma,
            mean=round(float(np.exp(logs.mean())), 4),
            spread=round(float(logs.std()), 4),
            largest=round(float(np.max(residuals)), 4),
            pictures=len(residuals),
        )

    @property
    def limit(self) -> float:
        """Return the residual above which a picture is far from those."""
        return max(self.mean * math.exp(FAR * max(self.spread, LEAST_SPREAD)), self.largest)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))


def domain_statistics(ref: str) -> DomainStatistics | None:
    """Return the statistics that the prior named by a denoiser's reference carries; None where it
    carries none.
    """
    scheme, path = split_ref(ref)
    if scheme not in ("builtin", "prior"):
        return None
    record = read_record(read_metadata(path or BUILTIN_WEIGHTS), "domain")
    return DomainStatistics(**record) if record else None


def read_metadata(path: Path | str) -> dict[str, str]:
    """Return the metadata of a prior file, empty where there is none; raise ValueError when it is
    no such file.
    """
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"cannot read the prior {path}: {error}; give a .safetensors file"
        ) from error


def read_record(metadata: Metadata, name: str) -> dict[str, Any]:
    """Return one JSON entry of a prior's metadata, empty where it has none."""
    return dict(json.loads(metadata.get(name, "{}")))
