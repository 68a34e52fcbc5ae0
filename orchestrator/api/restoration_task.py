"""What happened to the image, as a value that an editor completes: `Task.sr(4)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.api.job_options import Kernel, TaskName

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    MaskInput = str | os.PathLike[str] | NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class RestorationTask:
    """A task with what it needs; every method's arguments are the options of `restore`.

    sigma: standard deviation of the input's noise, grey levels (25), percent of the range ("10%"),
    or "auto": estimated from the image.
    """

    name: TaskName
    options: Mapping[str, Any]
    """Arguments that belong to it."""

    @classmethod
    def sr(
        cls, scale: int = 4, *, kernel: Kernel = "average", sigma: float | str | None = None
    ) -> RestorationTask:
        """Enlarge: `scale` output pixels per input pixel along each axis.

        kernel: whether the input's pixels are averages of cells or antialiased bicubic samples.
        """
        return cls("sr", {"scale": scale, "kernel": kernel, "sigma": sigma})

    @classmethod
    def colorize(cls, *, sigma: float | str | None = None) -> RestorationTask:
        """Give a grey image (the mean of its channels) colours."""
        return cls("colorize", {"sigma": sigma})

    @classmethod
    def inpaint(
        cls,
        mask: MaskInput | None = None,
        *,
        nodata: float | None = None,
        sigma: float | str | None = None,
    ) -> RestorationTask:
        """Fill unknown pixels: where `mask` (H, W) is less than 7/8 of white (0 and 1 have 1 as
        white), and samples that are `nodata`.
        """
        return cls("inpaint", {"mask": mask, "nodata": nodata, "sigma": sigma})

    @classmethod
    def denoise(
        cls, sigma: float | str | None = None, *, noise: str | None = None
    ) -> RestorationTask:
        """Remove Gaussian noise of standard deviation `sigma`, or the noise that `noise` names:
        "poisson:GAIN[,READ[,OFFSET]]", "poisson:auto" or "speckle:LOOKS[,amplitude]".
        """
        return cls("denoise", {"sigma": sigma, "noise": noise})

    @classmethod
    def deblur(
        cls, blur: str | NDArray[Any], *, sigma: float | str | None = None
    ) -> RestorationTask:
        """Undo a blur: "gaussian:2", "uniform:9", "anisotropic:4,1", a kernel's file or array."""
        return cls("deblur", {"blur": blur, "sigma": sigma})

    @classmethod
    def outpaint(cls, pad: tuple[int, int, int, int]) -> RestorationTask:
        """Invent `pad` px above, right of, below and left of the image."""
        return cls("outpaint", {"pad": pad})

    @classmethod
    def generate(cls, size: tuple[int, int]) -> RestorationTask:
        """Draw an image of (height, width) px; there is no input."""
        return cls("generate", {"size": size})

    @classmethod
    def cs(cls, *, ratio: float | None = None, sigma: float | str | None = None) -> RestorationTask:
        """Reconstruct from compressed sensing; the input is the folder that `degrade` wrote."""
        return cls("cs", {"ratio": ratio, "sigma": sigma})

    @classmethod
    def operator(
        cls,
        operator: str | type,
        arguments: Mapping[str, object] | None = None,
        *,
        sigma: float | str | None = None,
    ) -> RestorationTask:
        """Invert an operator of your own: a class, or "package.module:Class", and its arguments."""
        options = {"operator": operator, "operator_args": arguments, "sigma": sigma}
        return cls("operator", options)

    @classmethod
    def sr_colorize(cls, scale: int = 4, *, sigma: float | str | None = None) -> RestorationTask:
        """Enlarge a grey image and give it colours."""
        return cls("sr+colorize", {"scale": scale, "sigma": sigma})

    @classmethod
    def inpaint_colorize_sr(
        cls,
        scale: int = 4,
        mask: MaskInput | None = None,
        *,
        nodata: float | None = None,
        sigma: float | str | None = None,
    ) -> RestorationTask:
        """Restore an old photograph: fill, give colours, enlarge."""
        options = {"scale": scale, "mask": mask, "nodata": nodata, "sigma": sigma}
        return cls("inpaint+colorize+sr", options)


def task_options(task: RestorationTask | str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with those of its task; what the call says wins."""
    said = {name: value for name, value in given.items() if value is not None}
    if task is None:
        return said
    if isinstance(task, str):
        return {"task": task, **said}
    own = {name: value for name, value in task.options.items() if value is not None}
    return {"task": task.name, **own, **said}
