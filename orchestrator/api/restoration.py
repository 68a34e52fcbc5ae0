"""restore, start, plan and resume: a call's arguments become a job, which runs as the command's
does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from orchestrator.api.array_input import ImageInput
from orchestrator.api.background_run import BackgroundRun
from orchestrator.api.errors import as_argument_names, python_words
from orchestrator.api.job_options import JobOptions, TaskName, build_spec
from orchestrator.api.job_runs import resume_job, run_job
from orchestrator.api.planned_restoration import PlannedRestoration, plan_restoration
from orchestrator.api.prepared_job import PreparedJob, prepare_job
from orchestrator.api.restoration_task import RestorationTask
from orchestrator.api.result import RestorationResult
from orchestrator.api.text_bar import TextBar
from orchestrator.events import Listener
from orchestrator.job.fields.sections import AUTO
from orchestrator.job.inputs import InputFacts
from orchestrator.job.spec import JobSpec
from orchestrator.run_folder import RunDir
from orchestrator.shutdown import Stop

if TYPE_CHECKING:
    from orchestrator.run.drive import Outcome

Progress = Literal[True, False] | Listener | None
"""True: a bar; a function: called with every event; None or False: nothing."""


def restore(
    image: ImageInput | None = None,
    task: RestorationTask | TaskName | str | None = None,
    *,
    axes: str | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress = None,
    **options: Unpack[JobOptions],
) -> RestorationResult:
    """Restore an image and return the result, lazily.

    image: an array of y and x (and c, bands) of dtype uint8, int16, uint16 or float32 (numpy,
    dask, xarray, zarr, ...), a path, or a URL. axes: its axes in their order, a permutation of
    "yxc" or "yx"; left out where names or the shape leave no doubt. task: `Task.sr(4)`, "denoise",
    ...; sr by default. out: folder for the OME-Zarr image; a temporary one where it is left out.
    overwrite: replace an earlier result there. progress: True for a bar, or a function that is
    called with every event (`orchestrator.events`). Everything else is an option of `JobOptions`,
    with the names of the command line's.

    Runs in this process on one thread, or on Ray where `workers` or `address` is given: starting
    Ray takes seconds, and the pixels are the same. Ctrl-C on the main thread lets running tiles
    end.

    Raises PlanError (a ValueError) on one line for bad input, before anything is written; RunError
    for what failed and `resume` can go on with. Warns (UserWarning) where a level of noise or a
    range that was given does not suit the pixels.

    >>> import gigarestore as gr, numpy as np
    >>> small = np.zeros((20, 24, 3), np.uint8)
    >>> gr.restore(small, scale=2).shape
    (40, 48, 3)
    """
    with python_words():
        job = prepare_job(image, task, axes, options).to(out)
        with _telling(progress) as listeners, _own_threads():
            _run(job, listeners, overwrite=overwrite, stop=Stop(job.spec.run.drain_seconds))
        return RestorationResult(job.root, axes=job.axes, keep=job.temporary)


def start(
    image: ImageInput | None = None,
    task: RestorationTask | TaskName | str | None = None,
    *,
    axes: str | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress = None,
    **options: Unpack[JobOptions],
) -> BackgroundRun:
    """Begin a restoration on a thread of its own and return at once; arguments as for `restore`.

    Bad input raises PlanError here as far as it shows without the pixels, the rest in `result`.

    >>> run = gr.start("photo.png", scale=4, out="photo.zarr")
    >>> for event in run.events(): print(event)
    >>> restored = run.result()
    """
    with python_words():
        job = prepare_job(image, task, axes, options).to(out)
    stop = Stop(job.spec.run.drain_seconds)

    def drive(own: list[Listener]) -> Outcome:
        with _telling(progress) as listeners, _own_threads():
            return _run(job, [*own, *listeners], overwrite=overwrite, stop=stop)

    return BackgroundRun(job.root, drive, stop, axes=job.axes, keep=job.temporary)


def plan(
    image: ImageInput | None = None,
    task: RestorationTask | TaskName | str | None = None,
    *,
    axes: str | None = None,
    **options: Unpack[JobOptions],
) -> PlannedRestoration:
    """Say what a restoration would take, without pixels: tiles, network evaluations, disk, time.

    Arguments as for `restore`; without an image, `size=(height, width)` of the input, px. Nothing
    is written. Raises PlanError for everything that can be refused beforehand.

    >>> gr.plan(size=(10_000, 12_000), scale=4, workers=8).numbers.tiles
    """
    with python_words():
        job = prepare_job(image, task, axes, options)
        planned = plan_restoration(job.spec, options.get("workers") or 1)
    _warn(planned.plan.inputs, stacklevel=3)
    return planned


def resume(
    path: str | os.PathLike[str],
    *,
    take_over: bool = False,
    progress: Progress = None,
    **options: Unpack[JobOptions],
) -> RestorationResult:
    """Go on with an unfinished run and return its result; what is committed is not done again.

    take_over: also when another driver works there, because that one hangs. options: where and how
    it runs may change (workers=8); one that would change pixels raises PlanError.
    """
    root = Path(path)
    with python_words():
        begun = JobSpec.load_resolved(RunDir.existing(root).job)
        if options.get("sigma") == AUTO and begun.task.noise_from == "estimated":
            del options["sigma"]  # it was estimated when the run began, and stays
        changes = build_spec({**options}, begun).model_copy(update={"output": str(root)})
        with _telling(progress) as listeners, _own_threads():
            resume_job(root, listeners, changes=changes, take_over=take_over)
        return RestorationResult(root)


def _run(job: PreparedJob, listeners: list[Listener], *, overwrite: bool, stop: Stop) -> Outcome:
    with job.staged(overwrite=overwrite) as spec:
        outcome = run_job(spec, listeners, overwrite=overwrite, stop=stop)
    _warn(outcome.plan.inputs, stacklevel=4)
    return outcome


def _warn(inputs: InputFacts, stacklevel: int) -> None:
    """Warn of what the caller gave and the pixels do not show."""
    for line in inputs.warnings:
        warnings.warn(as_argument_names(line), UserWarning, stacklevel=stacklevel)


@contextlib.contextmanager
def _telling(progress: Progress) -> Iterator[list[Listener]]:
    """Give the listeners of a call."""
    if progress is None or progress is False:
        yield []
    elif progress is True:
        with TextBar(sys.stderr) as bar:
            yield [bar]
    else:
        yield [progress]


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Give the caller's torch its number of threads back: a run on the CPU computes with one."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
