"""All tasks by name: whatever class with a name the modules of this room define."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import replace

from orchestrator.errors import PlanError
from orchestrator.job import tasks
from orchestrator.job.fields.sections import TaskFields
from orchestrator.job.tasks.task import Task, Trial


def _defined() -> Iterator[type[Task]]:
    for module_info in pkgutil.iter_modules(tasks.__path__):
        if module_info.name == "registry":
            continue
        module = importlib.import_module(f"{tasks.__name__}.{module_info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ == module.__name__ and issubclass(value, Task) and value.name:
                yield value


TASKS: dict[str, type[Task]] = {
    task.name: task for task in sorted(_defined(), key=lambda task: task.place)
}
"""By name, in the order in which help texts and messages name them."""


def trials() -> dict[str, Trial]:
    """Return every task's ways of degrading clean images, by name, with the task's name
    filled in.
    """
    return {
        trial.name: replace(trial, task={"name": task.name, **trial.task})
        for task in TASKS.values()
        for trial in task.trials
    }


def check_options(given: TaskFields) -> None:
    """Raise PlanError for an option that belongs to another task."""
    for task in TASKS.values():
        for option in task.own_options:
            if task.name != given.name and option.given(given):
                raise PlanError(f"task {given.name} takes no {option.flag}; use --task {task.name}")
