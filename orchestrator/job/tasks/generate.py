"""Generation: nothing is measured, the prior alone draws the picture."""

from __future__ import annotations

from orchestrator.job.tasks.task import Task


class Generate(Task):
    """No measurement."""

    name = "generate"
    place = 40
    measured = False
