"""Outpainting: the picture is known inside, and invented around it."""

from __future__ import annotations

from orchestrator.job.tasks.task import Task


class Outpaint(Task):
    """The input's pixels; those that --pad adds are unknown."""

    name = "outpaint"
    place = 90
    masked = True
    takes_pad = True
    under_output = False
