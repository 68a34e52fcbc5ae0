"""Facts of a job's input: sizes, bands and dtype of the files it names, and what must fit together.
Headers only.
"""

from __future__ import annotations

import math

from kernels.denoisers.info import DenoiserInfo
from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import InputSpec, TaskFields
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.registry import TASKS, check_options
from orchestrator.job.value_range import LIMITS, UNSIGNED
from orchestrator.measurement.input_file import inspect_file
from storage.byte_source import located
from storage.image import ImageInfo
from storage.readers.reader_registry import inspect


def resolve_task(spec: JobSpec, info: DenoiserInfo) -> TaskFields:
    """Return the task with its operator spelled out; raises PlanError for options that do not
    belong to it.
    """
    check_options(spec.task)
    return spec.kind.resolve(spec.task, spec.input, info.channels)


def resolve_input(given: InputSpec, task: TaskFields, channels: int) -> InputSpec:
    """Return the input with its files' facts; raises PlanError on one line."""
    kind = TASKS[task.name]
    kind.check_input(given)
    if given.path is None:
        if given.size is None:
            raise PlanError(
                "no input: give an image file"
                + ("" if kind.measured else " or --size HEIGHTxWIDTH")
            )
        return given.model_copy(
            update={"bands": given.bands or channels, "dtype": given.dtype or "uint8"}
        )
    path = located(given.path)
    facts = kind.read_facts(path)
    if facts is not None:
        return given.model_copy(update={"path": path, **facts})
    info = inspect_file(given)
    least, most = LIMITS[info.dtype]
    whole = info.dtype == "float32" or given.nodata is None or given.nodata.is_integer()
    if given.nodata is not None and not (whole and least <= given.nodata <= most):
        raise PlanError(
            f"--nodata {given.nodata:g} cannot occur in an image of {info.dtype}; choose {least:g} to {most:g}"
        )
    size = (info.height, info.width)
    if given.crop is not None:
        size = (given.crop[2] - given.crop[0], given.crop[3] - given.crop[1])
    known: dict[str, object] = {
        "size": size,
        "bands": info.channels,
        "dtype": info.dtype,
        "path": path,
    }
    known |= {"values": _values(given, info), "keep_nodata": _keep_nodata(given, info, task)}
    return given.model_copy(update={**known, **_mask(given.mask, (info.height, info.width), task)})


def _values(given: InputSpec, info: ImageInfo) -> tuple[float, float] | None:
    """Return black and white: as given, or as a file of fewer bits than its dtype states them;
    None: of the dtype.
    """
    stated = info.limits if info.dtype in UNSIGNED and info.limits != LIMITS[info.dtype] else None
    if given.values is None and stated is None and info.dtype not in UNSIGNED:
        raise PlanError(
            f"{info.path}: {info.dtype} values have no black and white of their own; say which they are: "
            "--range LOW,HIGH"
        )
    return given.values or stated


def _keep_nodata(given: InputSpec, info: ImageInfo, task: TaskFields) -> float | None:
    """Return the file's nodata value; NaN needs none, since floats that are not finite are always
    left out.
    """
    filled = given.nodata is not None or not TASKS[task.name].picture
    return None if filled or info.nodata is None or math.isnan(info.nodata) else info.nodata


def _mask(mask: str | None, size: tuple[int, int], task: TaskFields) -> dict[str, object]:
    if mask is None:
        return {}
    path = located(mask)
    found = inspect(path)
    fine = (size[0] * task.scale, size[1] * task.scale)
    if (found.height, found.width) not in (size, fine):
        or_output = f" or the output's, {fine[0]}x{fine[1]}" if fine != size else ""
        raise PlanError(
            f"mask {path} is {found.height}x{found.width} px and the input {size[0]}x{size[1]}; "
            f"give a mask of the input's size{or_output}"
        )
    return {"mask": path, "fine_mask": (found.height, found.width) != size}
