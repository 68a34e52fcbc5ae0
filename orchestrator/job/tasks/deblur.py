"""Deblurring: every measured pixel is a weighted mean of its neighbourhood."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.operators.stencil import Stencil, from_weights
from orchestrator.errors import PlanError
from orchestrator.job.fields.blur import kernel_of, read_blur
from orchestrator.job.fields.sections import TaskFields
from orchestrator.job.tasks.task import OwnOption, Task


class Deblur(Task):
    """A convolution with a known kernel."""

    name = "deblur"
    place = 70
    has_coarser_levels = False
    under_output = False
    own_options = (OwnOption("--blur", lambda task: task.blur is not None),)

    @classmethod
    def resolve(cls, given: TaskFields, measurement: Any, channels: int) -> TaskFields:
        """Return the task with the kernel's weights, so that a run no longer needs the file."""
        if given.weights is not None:
            return given
        if given.blur is None:
            raise PlanError(
                "task deblur needs --blur: uniform:9, gaussian:2, anisotropic:4,1 or a kernel file"
            )
        return given.model_copy(update={"weights": kernel_of(read_blur(given.blur))})

    @classmethod
    def stencil_of(cls, given: TaskFields) -> Stencil | None:
        """Return the resolved kernel."""
        return (
            None
            if given.weights is None
            else from_weights(np.array(given.weights), normalise=False)
        )
