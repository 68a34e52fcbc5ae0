"""Compressed sensing: a share of the Walsh-Hadamard coefficients of every block."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kernels.operators.hadamard_size import kept_count
from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import TaskFields
from orchestrator.job.tasks.task import OwnOption, Task

if TYPE_CHECKING:
    from kernels.operators.linear_operator import Operator
    from storage.readers.zarr_arrays.cs_coefficients import CsInfo


class CompressedSensing(Task):
    """Randomly chosen coefficients with random signs, the same of every block and band."""

    name = "cs"
    place = 80
    scaled = True
    has_coarser_levels = False
    under_output = False
    picture = False
    coefficients = True
    own_options = (OwnOption("--ratio", lambda task: task.ratio is not None),)
    # It keeps drawing noise: without it nothing wipes out the artefacts of A+ y (17 dB instead of
    # 30).
    preset_changes = MappingProxyType(
        {"start": 300, "guided_start": 300, "steps": 30, "noise_scale": 1.0}
    )

    @classmethod
    def check(cls, given: TaskFields) -> None:
        """Raise ValueError for a ratio that keeps nothing, or a block that is no power of two."""
        kept_count(given.block, given.ratio or 0.0)

    @classmethod
    def check_bands(cls, bands: int, channels: int, denoiser: str) -> None:
        """Raise PlanError for other bands than the network's, or one that is replicated."""
        if bands not in (1, channels):
            raise PlanError(
                f"the measurement has {bands} bands, {denoiser} restores {channels}, "
                "or 1 replicated; measure groups of that many bands"
            )

    @classmethod
    def resolve(cls, given: TaskFields, measurement: CsInfo | None, channels: int) -> TaskFields:
        """Return the task with block, ratio and seed as the measurement states them."""
        if measurement is None:
            return _without_measurement(given)
        info = measurement
        if given.ratio is not None and given.ratio != info.ratio:
            raise PlanError(
                f"--ratio {given.ratio:g} is not that of the measurement, {info.ratio:g}; "
                "leave it out"
            )
        stated = {
            "scale": info.block,
            "block": info.block,
            "ratio": info.ratio,
            "cs_seed": info.seed,
        }
        return given.model_copy(update=stated)

    @classmethod
    def inspect(cls, path: str) -> CsInfo:
        """Describe the array of coefficients."""
        from storage.readers.zarr_arrays.cs_coefficients import inspect_coefficients  # imports zarr

        return inspect_coefficients(Path(path))

    @classmethod
    def input_fields(cls, measurement: CsInfo) -> dict[str, Any]:
        """Return size in blocks, bands, dtype, and the output's extent."""
        return {
            "size": measurement.blocks,
            "bands": measurement.bands,
            "dtype": measurement.dtype,
            "extent": (measurement.height, measurement.width),
        }

    @classmethod
    def operator(cls, given: TaskFields) -> Operator:
        """Return the operator that the ratio and the seed draw."""
        from kernels.operators.hadamard import drawn  # imports torch

        assert given.ratio is not None, "resolve() fills the task"
        return drawn(given.block, given.ratio, given.cs_seed)


def _without_measurement(given: TaskFields) -> TaskFields:
    if given.ratio is None:
        raise PlanError(
            "task cs needs a measurement, or --ratio and --size in blocks to plan without one"
        )
    kept_count(given.block, given.ratio)
    return given.model_copy(update={"scale": given.block})
