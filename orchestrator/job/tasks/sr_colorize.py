"""Super-resolution of a grey picture, in colour."""

from __future__ import annotations

from orchestrator.job.tasks.task import Task


class SuperResolutionColorize(Task):
    """Means of cells over all channels."""

    name = "sr+colorize"
    place = 50
    grey = True
    least_scale = 2
    scaled = True
