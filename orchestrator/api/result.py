"""What a restoration left: pixels, their check, their history, and a picture for a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.api.array_input import GivenAxes, read_given
from orchestrator.api.array_view import ArrayView, lazy_array
from orchestrator.api.errors import python_words
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.run_folder import RunDir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from orchestrator.monitoring.run_summary import RunSummary
    from orchestrator.run.verify import Verification


class RestorationResult:
    """A finished restoration; its pixels stay on disk until they are asked for.

    Values are stored values of the input's dtype, lengths are px, and axes are those of the input:
    for a path `yxc` (`yx` for one band), with `c` appended where a grey input became coloured.
    """

    def __init__(self, root: Path, *, axes: str | None = None, keep: object = None) -> None:
        """root: folder of the published image. keep: lives as long as the pixels are held."""
        self._run = RunDir.existing(root)
        self._keep = keep
        if not self._run.published:
            raise PlanError(f"{root} is not finished; `gigarestore resume {root}` finishes it")
        spec = JobSpec.load_resolved(self._run.job)
        self._spec = spec
        self._given = read_given(spec.input.path)
        self._channels, _, _ = self._level(0, "cyx").shape
        self.axes = _result_axes(axes, self._given, self._channels)
        """Axes of `array` and of every level of `pyramid`."""

    @property
    def path(self) -> Path:
        """Return the folder of the OME-Zarr image.

        One that was made for want of `out` goes when neither this result nor an array of it is
        held any more.
        """
        return self._run.root

    @property
    def spec(self) -> JobSpec:
        """Return the job with everything that was chosen for it."""
        return self._spec

    @property
    def array(self) -> Any:
        """Return the restored image, lazily: a dask array where dask is installed, else an
        `ArrayView`.
        """
        return self.pyramid[0]

    @property
    def pyramid(self) -> list[Any]:
        """Return the levels as `array` does, each half as large as the one before; for napari."""
        folders = sorted((f for f in self.path.iterdir() if f.name.isdecimal()), key=_number)
        return [lazy_array(self._level(int(folder.name), self.axes)) for folder in folders]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of `array`."""
        return self._level(0, self.axes).shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of `array`: the input's."""
        return self._level(0, self.axes).dtype

    @property
    def xarray(self) -> Any:
        """Return the image as an xarray.DataArray.

        Where the input was one, its names, attributes and coordinates come back: those along y and
        x at the centres of the finer pixels. Raises ImportError without xarray.
        """
        from orchestrator.api.coordinates import data_array

        return data_array(self.array, self.axes, self._given, self._spec)

    def verify(self) -> Verification:
        """Check A x = y everywhere, the seams, and that nothing is missing.

        Raises PlanError for what is no finished run, DamagedError for lost pixels.
        """
        from orchestrator.run.verify import verify_run

        with python_words():
            return verify_run(self.path)

    def report(self) -> RunSummary:
        """Return what the event log tells: attempts, workers, network evaluations, seconds."""
        from orchestrator.monitoring.history import read_summary

        return read_summary(self._run.events)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._level(0, self.axes).__array__(dtype, copy)

    def __repr__(self) -> str:
        return (
            f"<Restored {self.axes} {self.shape} {self.dtype}, {self._spec.task.name}: {self.path}>"
        )

    def _repr_html_(self) -> str:
        """Return input and restoration under a slider, as HTML that needs nothing else."""
        from orchestrator.api.html_view import comparison_html

        return comparison_html(self._run)

    def _level(self, number: int, axes: str) -> ArrayView:
        return ArrayView(self.path / str(number), axes, (self, self._keep))


def open_result(path: str | Path, *, axes: str | None = None) -> RestorationResult:
    """Open a finished restoration, from here or from the command line.

    axes: of its arrays; those of the input where it was an array. Raises PlanError where there is
    no finished run.
    """
    with python_words():
        return RestorationResult(Path(path), axes=axes)


def _result_axes(axes: str | None, given: GivenAxes | None, channels: int) -> str:
    """Return the axes of the output: as said, as the input's, or as pictures usually are."""
    usual = "yx" if channels == 1 else "yxc"
    wanted = axes or (usual if given is None else given.axes)
    if sorted(wanted) not in (["x", "y"], ["c", "x", "y"]):
        raise PlanError(f"axes={wanted!r} are none; give y and x, and c for bands: 'yxc'")
    return wanted + "c" if channels > 1 and "c" not in wanted else wanted


def _number(folder: Path) -> int:
    return int(folder.name)
