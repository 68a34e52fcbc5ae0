"""Super-resolution of a grey picture with holes, in colour: an old photograph."""

from __future__ import annotations

from orchestrator.job.tasks.task import Task


class InpaintColorizeSuperResolution(Task):
    """Means of the known pixels of cells, over all channels."""

    name = "inpaint+colorize+sr"
    place = 60
    grey = True
    masked = True
    takes_mask = True
    least_scale = 2
    scaled = True
