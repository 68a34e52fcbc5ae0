"""Facts of a job's input: sizes, bands and dtype of the files it names, and what must fit together.
Headers only.
"""

from __future__ import annotations

import math
from pathlib import Path

from kernels.denoisers.info import DenoiserInfo
from kernels.operators.hadamard_size import kept_count
from orchestrator.errors import PlanError
from orchestrator.job.blur import kernel_of, read_blur
from orchestrator.job.spec import InputSpec, JobSpec, TaskSpec
from orchestrator.job.value_range import LIMITS, UNSIGNED
from orchestrator.measurement.input_file import inspect_file
from storage.byte_source import located
from storage.image import ImageInfo
from storage.readers.reader_registry import inspect


def resolve_task(spec: JobSpec, info: DenoiserInfo) -> TaskSpec:
    """Return the task with its operator spelled out; raises PlanError for options that do not
    belong to it.
    """
    task = spec.task
    for name, given, wanted in (
        ("--blur", task.blur, "deblur"),
        ("--ratio", task.ratio, "cs"),
        ("--operator", task.operator, "operator"),
        ("--kernel bicubic", task.kernel == "bicubic" or None, "sr"),
    ):
        if given is not None and task.name != wanted:
            raise PlanError(f"task {task.name} takes no {name}; use --task {wanted}")
    if task.name == "deblur":
        if task.weights is not None:
            return task
        if task.blur is None:
            raise PlanError(
                "task deblur needs --blur: uniform:9, gaussian:2, anisotropic:4,1 or a kernel file"
            )
        return task.model_copy(update={"weights": kernel_of(read_blur(task.blur))})
    if task.name == "cs":
        return _coefficients(spec)
    if task.name == "operator":
        return _own(task, info)
    return task


def resolve_input(given: InputSpec, task: TaskSpec, channels: int) -> InputSpec:
    """Return the input with its files' facts; raises PlanError on one line."""
    masked = "inpaint" in task.name
    measured = task.name != "generate"
    if not measured and given.path is not None:
        raise PlanError("task generate takes no input image; give --size HEIGHTxWIDTH instead")
    if masked and given.mask is None and given.nodata is None and given.path is not None:
        raise PlanError(
            f"task {task.name} needs --mask FILE, an image of the input's size, non-zero where it is known, "
            "or --nodata VALUE, which marks unknown pixels in the input itself"
        )
    if not masked and (given.mask is not None or given.nodata is not None):
        option = "--mask" if given.mask is not None else "--nodata"
        raise PlanError(f"task {task.name} takes no {option}; use --task inpaint")
    if (given.pad is not None) != (task.name == "outpaint"):
        raise PlanError(
            "task outpaint needs --pad TOP,RIGHT,BOTTOM,LEFT, and no other task takes it"
        )
    if given.pad is not None and not any(given.pad):
        raise PlanError("--pad 0,0,0,0 leaves nothing to invent; give pixels on at least one side")
    if given.path is None:
        if given.size is None:
            raise PlanError(
                "no input: give an image file" + ("" if measured else " or --size HEIGHTxWIDTH")
            )
        return given.model_copy(
            update={"bands": given.bands or channels, "dtype": given.dtype or "uint8"}
        )
    path = located(given.path)
    if task.name == "cs":
        from storage.readers.zarr_arrays.cs_coefficients import inspect_coefficients  # imports zarr

        cs = inspect_coefficients(Path(path))
        facts = {
            "size": cs.blocks,
            "bands": cs.bands,
            "dtype": cs.dtype,
            "extent": (cs.height, cs.width),
        }
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


def _keep_nodata(given: InputSpec, info: ImageInfo, task: TaskSpec) -> float | None:
    """Return the file's nodata value; NaN needs none, since floats that are not finite are always
    left out.
    """
    filled = given.nodata is not None or task.name in ("cs", "operator")
    return None if filled or info.nodata is None or math.isnan(info.nodata) else info.nodata


def _mask(mask: str | None, size: tuple[int, int], task: TaskSpec) -> dict[str, object]:
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


def _coefficients(spec: JobSpec) -> TaskSpec:
    task = spec.task
    if spec.input.path is None:
        if task.ratio is None:
            raise PlanError(
                "task cs needs a measurement, or --ratio and --size in blocks to plan without one"
            )
        kept_count(task.block, task.ratio)
        return task.model_copy(update={"scale": task.block})
    from storage.readers.zarr_arrays.cs_coefficients import inspect_coefficients  # imports zarr

    info = inspect_coefficients(Path(spec.input.path))
    if task.ratio is not None and task.ratio != info.ratio:
        raise PlanError(
            f"--ratio {task.ratio:g} is not that of the measurement, {info.ratio:g}; leave it out"
        )
    return task.model_copy(
        update={"scale": info.block, "block": info.block, "ratio": info.ratio, "cs_seed": info.seed}
    )


def _own(task: TaskSpec, info: DenoiserInfo) -> TaskSpec:
    from orchestrator.measurement.user_operator import load_operator  # imports torch

    if task.operator is None:
        raise PlanError("task operator needs --operator package.module:Class")
    operator = load_operator(task)
    from kernels.operators.operator_checks import check_operator

    check_operator(operator, task.operator, info.channels, noisy=task.sigma > 0)
    return task.model_copy(update={"scale": operator.scale, "alignment": operator.alignment})
