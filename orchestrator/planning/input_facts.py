"""Facts of a job's input: sizes, bands and dtype of the files it names, and what must fit together.
Headers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from orchestrator.errors import PlanError
from orchestrator.job.fields.noise_option import noise_model
from orchestrator.job.fields.pixel_rules import CURRENT, FIRST
from orchestrator.job.fields.sections import AUTO, FULL, InputSpec, Range, TaskFields
from orchestrator.job.inputs import InputFacts
from orchestrator.job.spec import JobSpec
from orchestrator.job.tasks.registry import TASKS, check_options
from orchestrator.job.tasks.task import Task
from orchestrator.job.value_range import LIMITS, UNSIGNED
from orchestrator.measurement.input_file import inspect_file
from orchestrator.measurement.marked_samples import look_at_marked
from orchestrator.measurement.mask_reading import survey_mask
from orchestrator.measurement.range_survey import survey_range
from orchestrator.planning.noise_facts import resolve_noise
from orchestrator.run_folder import RunDir
from storage.byte_source import located
from storage.errors import FormatError
from storage.image import ImageInfo
from storage.readers.reader_registry import inspect


def resolve_task(spec: JobSpec, channels: int) -> TaskFields:
    """Return the task of a job without a measurement, to degrade by it; raises PlanError for
    options that do not belong to it. channels: of the network.
    """
    check_options(spec.task)
    if spec.task.noise is not None or spec.task.noise_from is not None:
        raise PlanError(
            "degrade adds Gaussian noise of a stated level; give --sigma LEVELS, without --noise"
        )
    return spec.kind.resolve(spec.task, None, channels)


def resolve_files(
    spec: JobSpec, channels: int, read: InputFacts | None = None, run: RunDir | None = None
) -> tuple[JobSpec, InputFacts]:
    """Return the job with its task and its input's facts spelled out, and the facts themselves.

    channels: of the network. read: the facts, where they are known already. run: an earlier start
    of the job, whose staged copies stand in for files that cannot be read any more. Raises
    PlanError or FormatError on one line.
    """
    check_options(spec.task)
    measurement = None if spec.input.path is None else spec.kind.inspect(spec.input.path)
    task = spec.kind.resolve(spec.task, measurement, channels)
    spec.kind.check_input(spec.input)
    files = InputFacts()
    if spec.input.path is None:
        source = _without_file(spec.input, spec.kind, channels)
    elif measurement is not None:
        fields = spec.kind.input_fields(measurement)
        source = spec.input.model_copy(update={"path": located(spec.input.path), **fields})
    else:
        first_rules = spec.sampling.pixel_rules == FIRST
        files = read or _read(spec.input, run)
        source = _with_facts(spec.input, task, files)
        if source.mask is not None and source.mask_white is None and not first_rules:
            survey = survey_mask(source.mask, source.mask_holes)
            files = replace(files, survey=survey, scatter=survey.scatter)
            source = source.model_copy(update={"mask_white": survey.white})
        if run is None and read is None and source.mask is None and not first_rules:
            files = replace(files, scatter=_marked_scatter(source, files.image))
        keeps = _keep_nodata(spec.input, files.image, task, first_rules=first_rules)
        validity = {} if first_rules else _validity(files.image, task)
        model = noise_model(task)
        positive = model is not None and model.positive
        source = source.model_copy(update={"keep_nodata": keeps, "positive": positive, **validity})
        source, files = _with_range(source, files, spec, begun=run is not None)
        if run is None and read is None and spec.kind.picture:
            task, files = resolve_noise(task, source, spec.kind, files)
    return spec.model_copy(update={"task": task, "input": source}), files


def _marked_scatter(given: InputSpec, info: ImageInfo | None) -> float | None:
    """Return how scattered the samples are that a value marks as unknown; None where none does.

    Raises PlanError where it is certain that no sample has that value.
    """
    assert info is not None, "the input is an image file"
    if given.nodata is None:
        return None
    look = look_at_marked(given, info)
    if look.everywhere and not look.marked:
        value = given.nodata if isinstance(given.nodata, str) else f"{given.nodata:g}"
        raise PlanError(
            f"--nodata {value}: no sample of {info.path} is {value}, so that nothing is left to "
            "fill; give the value that its unknown samples have, or --mask"
        )
    return look.scatter


def _read(given: InputSpec, run: RunDir | None) -> InputFacts:
    """Read what the headers of the files say."""
    staged = (None, None) if run is None else (run.staged_input, run.staged_mask)
    image = _unless_staged(lambda: inspect_file(given), staged[0])
    mask = None
    if (path := given.mask) is not None:
        mask = _unless_staged(lambda: inspect(located(path)), staged[1])
    return InputFacts(image=image, mask=mask)


def _unless_staged(read: Callable[[], ImageInfo], staged: Path | None) -> ImageInfo:
    """Return what a file says of itself, or its staged copy where the file cannot be
    read any more.
    """
    try:
        return read()
    except FormatError:
        if staged is None or not staged.exists():
            raise
        return inspect(staged)


def _without_file(given: InputSpec, kind: type[Task], channels: int) -> InputSpec:
    if given.size is None:
        alternative = "" if kind.measured else " or --size HEIGHTxWIDTH"
        raise PlanError(f"no input: give an image file{alternative}")
    dtype = given.dtype or "uint8"
    values: Range | Literal["auto", "full"] | None = given.values
    if kind.measured and values in (None, AUTO):
        # Its pixels are not there yet, and no range changes what is planned.
        values = "full" if dtype in UNSIGNED else (0.0, 1.0)
    usual = {"bands": given.bands or channels, "dtype": dtype, "values": values}
    return given.model_copy(update=usual)


def _with_facts(given: InputSpec, task: TaskFields, files: InputFacts) -> InputSpec:
    info = files.image
    assert info is not None, "the input is an image file"
    _check_nodata(given.nodata, info)
    size = (info.height, info.width)
    if given.crop is not None:
        size = (given.crop[2] - given.crop[0], given.crop[3] - given.crop[1])
    facts: dict[str, object] = {
        "path": located(given.path or ""),
        "size": size,
        "bands": info.channels,
        "dtype": info.dtype,
    }
    mask = _mask(given.mask, files.mask, (info.height, info.width), task)
    return given.model_copy(update={**facts, **mask})


def _with_range(
    source: InputSpec, files: InputFacts, spec: JobSpec, *, begun: bool
) -> tuple[InputSpec, InputFacts]:
    """Return the input with black and white in numbers, and what was found of them.

    begun: the job is that of a run, whose numbers stand, also where its input is gone.
    """
    assert files.image is not None, "the input is an image file"
    stated = source.values not in (None, AUTO)
    if stated and (begun or source.values_from is not None):
        return source, files
    rules = spec.sampling.pixel_rules or CURRENT
    kind = spec.kind
    noisy = spec.task.noisy or spec.task.noise is not None
    apart = kind.picture and not kind.grey and not noisy
    survey = survey_range(source, files.image, rules, apart=apart)
    resolved = {"values": survey.values or FULL, "values_from": survey.source}
    return source.model_copy(update=resolved), replace(files, range=survey)


def _check_nodata(nodata: float | str | None, info: ImageInfo) -> None:
    """Raise PlanError for a value of unknown samples that the input cannot hold."""
    if nodata is None:
        return
    real = info.dtype == "float32"
    least, most = LIMITS[info.dtype]
    if isinstance(nodata, str):
        possible = real
    else:
        possible = least <= nodata <= most and (real or nodata.is_integer())
    if not possible:
        shown = nodata if isinstance(nodata, str) else f"{nodata:g}"
        raise PlanError(
            f"--nodata {shown} cannot occur in an image of {info.dtype}; "
            f"choose {least:g} to {most:g}"
        )


def _keep_nodata(
    given: InputSpec, info: ImageInfo | None, task: TaskFields, *, first_rules: bool
) -> float | None:
    """Return the file's nodata value, unless samples of it are to be filled; under the first rules
    whatever value was to be filled.

    NaN needs none, since floats that are not finite are always left out.
    """
    assert info is not None, "the input is an image file"
    filled = given.nodata is not None and (first_rules or given.nodata == info.nodata)
    if filled or not TASKS[task.name].picture:
        return None
    return None if info.nodata is None or math.isnan(info.nodata) else info.nodata


def _validity(info: ImageInfo | None, task: TaskFields) -> dict[str, object]:
    """Return the fields of what the file says beside its samples about which of them are valid."""
    assert info is not None, "the input is an image file"
    if not TASKS[task.name].picture:
        return {}
    return {
        "keep_mask": info.mask or None,
        "valid_file": located(info.beside) if info.beside else None,
    }


def _mask(
    mask: str | None, info: ImageInfo | None, size: tuple[int, int], task: TaskFields
) -> dict[str, object]:
    """Return the mask's fields of the input; raises PlanError for one of another size."""
    if mask is None or info is None:
        return {}
    path = located(mask)
    fine = (size[0] * task.scale, size[1] * task.scale)
    if (info.height, info.width) not in (size, fine):
        or_output = f" or the output's, {fine[0]}x{fine[1]}" if fine != size else ""
        raise PlanError(
            f"mask {path} is {info.height}x{info.width} px and the input {size[0]}x{size[1]}; "
            f"give a mask of the input's size{or_output}"
        )
    return {"mask": path, "fine_mask": (info.height, info.width) != size}
