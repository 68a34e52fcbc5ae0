"""From a call's arguments to a job that can run: where its output goes, and its arrays staged
beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.api.array_input import (
    ArrayImage,
    ImageInput,
    array_image,
    is_file_name,
    mask_image,
)
from orchestrator.api.job_options import build_spec
from orchestrator.api.restoration_task import RestorationTask, task_options
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.planning.resolve import plan_job
from orchestrator.run_folder import RunDir, check_output


class TemporaryFolder:
    """A folder that goes when nobody holds this object any more, or Python ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="gigarestore-"))
        # Deletes after its holders are gone; a folder that is gone already is no error.
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedJob:
    """What a call asks for, checked; its arrays are not staged yet."""

    spec: JobSpec
    """Without the paths of arrays, but with their size, bands and dtype."""
    image: ArrayImage | None
    mask: ArrayImage | None
    axes: str | None
    """As the caller said them; None where they follow from the image."""
    temporary: TemporaryFolder | None
    """Holds the output where the caller named none."""

    def to(self, out: str | os.PathLike[str] | None) -> PreparedJob:
        """Return the job with its output at `out`, or in a temporary folder."""
        temporary = TemporaryFolder() if out is None else None
        folder = temporary.path / "restored.zarr" if temporary is not None else out
        spec = self.spec.model_copy(update={"output": str(folder)})
        return replace(self, spec=spec, temporary=temporary)

    @property
    def root(self) -> Path:
        """Return the folder of the output."""
        assert self.spec.output is not None, "`to` names it"
        return Path(self.spec.output)

    @contextlib.contextmanager
    def staged(self, *, overwrite: bool) -> Iterator[JobSpec]:
        """Copy the arrays beside the output and give the job that reads them there.

        Within, the run begins. Arrays that its job file does not name afterwards go again: those of
        this call where it was refused, else those of the run that it replaced.
        """
        arrays = {"path": self.image, "mask": self.mask}
        given = {name: array for name, array in arrays.items() if array is not None}
        if not given:
            yield self.spec
            return
        run = RunDir(self.root)
        check_output(run, overwrite)
        folder = run.arrays / uuid.uuid4().hex
        existed = self.root.exists()
        before = list(run.arrays.iterdir()) if run.arrays.exists() else []
        try:
            places = {name: str((folder / f"{name}.zarr").absolute()) for name in given}
            for name, array in given.items():
                array.stage(Path(places[name]))
            yield self.spec.model_copy(update={"input": self.spec.input.model_copy(update=places)})
        finally:
            _remove_unused(run, [folder, *before])
            if not existed:
                _remove_empty(run)


def prepare_job(
    image: ImageInput | None,
    task: RestorationTask | str | None,
    axes: str | None,
    options: Mapping[str, Any],
) -> PreparedJob:
    """Check a call's arguments; raises PlanError for all that can be refused without the pixels."""
    given = task_options(task, options)
    mask = _mask_array(given)
    array = None if image is None or is_file_name(image) else array_image(image, axes)
    spec = build_spec(given)
    _check_image(spec, image, array)
    if array is not None and mask is not None:
        _check_mask(mask, array, spec.task.scale)
    source = spec.input.model_copy(update=_facts(image, array, spec.input.channel))
    spec = spec.model_copy(update={"input": source})
    if array is not None:
        plan_job(spec)
    return PreparedJob(spec, array, mask, axes, temporary=None)


def _mask_array(given: dict[str, Any]) -> ArrayImage | None:
    """Take a mask that is no file out of the arguments."""
    mask = given.get("mask")
    return None if mask is None or is_file_name(mask) else mask_image(given.pop("mask"))


def _check_image(spec: JobSpec, image: ImageInput | None, array: ArrayImage | None) -> None:
    drawn = not spec.kind.measured
    if image is None and not drawn and spec.input.size is None:
        raise PlanError(
            "no image; give an array, a path or a URL, or draw one: Task.generate(size)"
        )
    if image is not None and drawn:
        raise PlanError("task generate takes no image; leave it out, or give another task")
    if array is not None and spec.kind.coefficients:
        raise PlanError(f"task {spec.task.name} takes no array; give the folder that degrade wrote")


def _check_mask(mask: ArrayImage, image: ArrayImage, scale: int) -> None:
    height, width = image.size
    fine = (height * scale, width * scale)
    if mask.size not in (image.size, fine):
        wanted = f"{image.size}" if scale == 1 else f"{image.size} or {fine}"
        raise PlanError(f"mask= has shape {mask.size} and the image {image.size}; give {wanted}")


def _facts(
    image: ImageInput | None, array: ArrayImage | None, channel: tuple[int, ...] | None
) -> dict[str, Any]:
    """Return what a job's input says: the file, or what planning asks of an array."""
    if array is not None:
        bands = array.bands if channel is None else len(channel)
        return {"size": array.size, "bands": bands, "dtype": array.dtype}
    return {"path": os.fspath(image)} if is_file_name(image) else {}


def _remove_unused(run: RunDir, folders: Sequence[Path]) -> None:
    """Remove those of the folders that the job of the run does not read.

    Others, which another call may be about to read, stay.
    """
    text = run.job.read_text(encoding="utf-8") if run.job.exists() else ""
    for folder in folders:
        if folder.name not in text:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(run: RunDir) -> None:
    """Leave no empty folders of an output that did not begin."""
    for folder in (run.arrays, run.state, run.root):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
