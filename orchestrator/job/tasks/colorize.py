"""Colorization: the measurement is the mean of the channels."""

from __future__ import annotations

from orchestrator.job.tasks.task import Task, Trial


class Colorize(Task):
    """One grey value for every pixel."""

    name = "colorize"
    place = 10
    grey = True
    trials = (Trial(name="colorize", task={}),)
