"""Super-resolution: the measurement is the picture reduced by a whole factor."""

from __future__ import annotations

from kernels.operators.stencil import Stencil, bicubic
from orchestrator.job.fields.sections import TaskFields
from orchestrator.job.tasks.task import OwnOption, Task, Trial


class SuperResolution(Task):
    """Averages of scale x scale cells, or with `kernel` bicubic antialiased decimation."""

    name = "sr"
    place = 0
    least_scale = 2
    scaled = True
    default_scale = 4
    enlarges = True
    own_options = (OwnOption("--kernel bicubic", lambda task: task.kernel == "bicubic"),)
    trials = (
        Trial(name="sr4", task={"scale": 4}),
        Trial(name="sr2", task={"scale": 2}),
    )

    @classmethod
    def stencil_of(cls, given: TaskFields) -> Stencil | None:
        """Return the decimation's stencil; averages are cells of their own."""
        return bicubic(given.scale) if given.kernel == "bicubic" else None
