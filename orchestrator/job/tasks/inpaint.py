"""Inpainting: the picture is known where a mask, or a value that means unknown, says so."""

from __future__ import annotations

from orchestrator.job.tasks.task import Task, Trial


class Inpaint(Task):
    """The known pixels themselves."""

    name = "inpaint"
    place = 20
    masked = True
    takes_mask = True
    trials = (Trial(name="inpaint", task={}, random=True),)
