"""Make a measurement from a clean image with exactly the operators that restore: for demonstrations
and evaluation.

The clean image is read by windows; the measurement is kept in memory and written whole (a `cs` one:
by blocks). Values are rounded to the image's dtype, as a camera would. Beside the border a blur
sees the picture reflected; those measurements constrain nothing when restoring. Rows and columns
that fill no cell of `scale` px are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels.operators.hadamard_size import kept_count
from orchestrator.errors import PlanError
from orchestrator.job.fields.pixel_rules import CURRENT
from orchestrator.job.spec import JobSpec
from orchestrator.job.value_range import Values
from orchestrator.measurement.consistency import means, support, windows
from orchestrator.measurement.input_file import open_file
from orchestrator.measurement.range_survey import survey_range
from orchestrator.measurement.windows import MeasuredWindow
from storage import atomic_files
from storage.box import Box
from storage.export.small_image import check_name, write_image
from storage.image import ImageInfo, Reader
from storage.pixels import peak
from storage.readers.reader_registry import open_image
from storage.readers.zarr_arrays.cs_coefficients import CsInfo, create_coefficients

Float64 = NDArray[np.float64]
Pixels = NDArray[np.unsignedinteger]
# Measurement values along a side of the windows that are worked on at a time, for a scale of 1.
WINDOW = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Size of a measurement, and how its window is computed."""

    height: int
    width: int
    bands: int
    side: int
    """Of a window, measurement px."""
    measure: Callable[[Box], Float64]
    """Noise-free values of a window, in grey levels."""


def degrade(spec: JobSpec, out: Path, seed: int, overwrite: bool = False) -> tuple[int, ...]:
    """Measure spec.input.path by spec.task and write it to `out`; returns the shape of what was
    written.

    spec: with its task resolved (orchestrator.planning.input_facts.resolve_task), but for `cs`.
    Raises PlanError on one line.
    """
    if spec.input.path is None:
        raise PlanError("no input named; usage: gigarestore degrade IN OUT --task TASK")
    if out.exists() and not overwrite:
        raise PlanError(f"{out} exists; choose another OUT, or --overwrite to replace it")
    image = open_file(spec.input, Path(os.devnull) / "nothing staged")
    info = image.info
    top = peak(image.info.dtype)
    clean = MeasuredWindow(
        info.height, info.width, lambda *box: _measured(image, Box(*box)).astype(np.float32)
    )
    sigma = spec.task.sigma
    if spec.task.sigma_unit == "fraction":
        sigma *= _levels(spec, info)
    if spec.kind.coefficients:
        return _write_coefficients(spec, clean, info.channels, info.dtype, sigma, seed, out)
    check_name(out)
    shape = _shape(spec, clean, info.channels, top)
    measurement: Pixels = np.zeros((shape.bands, shape.height, shape.width), dtype=info.dtype)
    keep = _kept(spec, shape)
    for i, box in enumerate(windows(shape.height, shape.width, shape.side)):
        values = shape.measure(box)
        if sigma > 0:
            values = values + sigma * np.random.Generator(
                np.random.Philox([seed, i])
            ).standard_normal(values.shape)
        levels = np.clip(np.floor(values + 0.5), 0, top).astype(info.dtype)
        measurement[(slice(None), *box.slices())] = (
            levels if keep is None else np.where(keep(box), levels, _unknown(spec))
        )
    write_image(out, measurement)
    return measurement.shape


def _measured(image: Reader, box: Box) -> Pixels:
    """Return a window of a clean image; raises PlanError where it holds samples without data, which
    have no measurement.
    """
    pixels, valid = image.read_valid(box)
    if valid is not None and not valid.all():
        raise PlanError(
            f"{image.info.path}: {int((~valid).sum())} samples without data in the window {box}; a "
            "clean image has none: crop it, or fill them by `restore --task inpaint`"
        )
    return pixels


def _levels(spec: JobSpec, info: ImageInfo) -> float:
    """Return the grey levels from black to white, as a restoration of the clean image has them."""
    if not spec.kind.picture:
        return float(peak(info.dtype))
    survey = survey_range(spec.input, info, CURRENT)
    return Values.build(info.dtype, survey.values, count=info.channels).levels


def _shape(spec: JobSpec, clean: MeasuredWindow, bands: int, top: int) -> _Shape:
    task = spec.task
    scale = spec.task.scale
    height = clean.height // scale
    width = clean.width // scale
    side = max(WINDOW // scale, 1)
    if height == 0 or width == 0:
        raise PlanError(
            f"an image of {clean.height}x{clean.width} px holds no cell of {scale} px; choose a "
            "smaller --scale"
        )
    grey = spec.kind.grey
    bands = 1 if grey else bands

    def read(box: Box) -> Float64:
        return clean.read(box.y0, box.x0, box.y1, box.x1).astype(np.float64)

    if not spec.kind.picture:
        return _own_shape(spec, clean, top)
    if spec.kind.takes_pad:
        above, right, below, left = spec.input.pad or (0, 0, 0, 0)
        height = height - above - below
        width = width - left - right
        if height <= 0 or width <= 0:
            raise PlanError(
                f"--pad {spec.input.pad} leaves nothing of {clean.height}x{clean.width} px; cut "
                "away less"
            )
        return _Shape(
            height=height,
            width=width,
            bands=bands,
            side=side,
            measure=lambda box: read(box.shift(above, left)),
        )
    stencil = spec.kind.stencil_of(task)
    if stencil is not None:
        return _Shape(
            height=height, width=width, bands=bands, side=side,
            measure=lambda box: stencil.measure(read(support(stencil, box))),
        )  # fmt: skip
    fine = _fine_mask(spec, clean)

    def averages(box: Box) -> Float64:
        place = box.scale(scale)
        weights = None if fine is None else (fine(place)[:1] != 0).astype(np.float64)
        return means(read(place), scale, grey, weights)  # type: ignore[arg-type]

    return _Shape(height=height, width=width, bands=bands, side=side, measure=averages)


def _own_shape(spec: JobSpec, clean: MeasuredWindow, top: int) -> _Shape:
    from orchestrator.measurement.tile_operator import measure as apply  # imports torch

    operator = spec.kind.operator(spec.task)
    unit = operator.alignment
    scale = operator.scale
    height, width = (side // unit * unit // scale for side in (clean.height, clean.width))

    def measure(box: Box) -> Float64:
        place = box.scale(scale)
        x = clean.read(place.y0, place.x0, place.y1, place.x1).astype(np.float64) * (2 / top) - 1
        levels: Float64 = (apply(operator, x) + 1) * (top / 2)
        return levels

    cells = unit // scale
    bands = len(measure(Box(0, 0, cells, cells)))
    return _Shape(
        height=height,
        width=width,
        bands=bands,
        side=max(WINDOW // unit, 1) * cells,
        measure=measure,
    )


def _fine_mask(spec: JobSpec, clean: MeasuredWindow) -> Callable[[Box], Pixels] | None:
    """Return the reader of a mask of the clean image's size, where that is not the
    measurement's.
    """
    if spec.input.mask is None or spec.task.scale == 1:
        return None
    mask = open_image(spec.input.mask)
    return mask.read if (mask.info.height, mask.info.width) == (clean.height, clean.width) else None


def _kept(spec: JobSpec, shape: _Shape) -> Callable[[Box], NDArray[np.bool_]] | None:
    """Return which values of a window stay: all where there is no mask of the
    measurement's size.
    """
    if not spec.kind.takes_mask:
        return None
    if spec.input.mask is None:
        raise PlanError(
            f"task {spec.task.name} needs --mask FILE, non-zero where pixels stay known"
        )
    mask = open_image(spec.input.mask)
    if (mask.info.height, mask.info.width) == (shape.height, shape.width):
        return lambda box: mask.read(box)[:1] != 0
    if (mask.info.height, mask.info.width) == (
        shape.height * spec.task.scale,
        shape.width * spec.task.scale,
    ):
        return None
    raise PlanError(
        f"mask {spec.input.mask} is {mask.info.height}x{mask.info.width} px and the measurement "
        f"{shape.height}x{shape.width}; give a mask of the measurement's size or of the clean "
        "image's"
    )


def _unknown(spec: JobSpec) -> int:
    return int(spec.input.nodata or 0)


def _write_coefficients(
    spec: JobSpec, clean: MeasuredWindow, bands: int, dtype: str, sigma: float, seed: int, out: Path
) -> tuple[int, ...]:
    from orchestrator.measurement.tile_operator import measure  # imports torch

    task = spec.task.model_copy(update={"cs_seed": seed})
    if task.ratio is None:
        raise PlanError(
            "task cs needs --ratio, the kept share of the coefficients, for example 0.25"
        )
    info = CsInfo(
        block=task.block, ratio=task.ratio, seed=seed,
        height=clean.height, width=clean.width, bands=bands, dtype=dtype,
    )  # fmt: skip
    operator = spec.kind.operator(task)
    unit = 2.0 / peak(dtype)
    with atomic_files.atomic_folder(out, fsync=False, overwrite=True) as folder:
        array = create_coefficients(folder, info, kept_count(task.block, task.ratio))
        for i, box in enumerate(windows(*info.blocks, side=max(WINDOW // task.block // 8 * 8, 8))):
            place = box.scale(task.block)
            x = clean.read(place.y0, place.x0, place.y1, place.x1).astype(np.float64) * unit - 1
            y = measure(operator, x)
            noise = (
                np.random.Generator(np.random.Philox([seed, i])).standard_normal(y.shape)
                if sigma > 0
                else 0.0
            )
            array[(slice(None), *box.slices())] = (y + sigma * unit * noise).astype(np.float32)
    return tuple(array.shape)
