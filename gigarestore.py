"""Restore images of unlimited size: arrays in, arrays out.

    import gigarestore as gr

    restored = gr.restore(image, scale=4)      # an array, a path or a URL
    restored.array                             # lazily; np.asarray(restored)
    restored.verify().passed                   # A x = y holds

`restore` waits, `start` does not, `plan` says what it would take, `open` and `resume` take up an
earlier run, `check` tries a network on an image, and `sample` runs the sampler on a tensor without
tiles or files. Importing this module loads neither torch, ray, zarr nor tifffile: each name is
loaded when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.api import operator_helpers as operators
    from orchestrator.api.background_run import BackgroundRun as Run
    from orchestrator.api.errors import RunCancelled
    from orchestrator.api.job_options import JobOptions
    from orchestrator.api.network_check import check
    from orchestrator.api.planned_restoration import PlannedRestoration as Plan
    from orchestrator.api.restoration import plan, restore, resume, start
    from orchestrator.api.restoration_task import RestorationTask as Task
    from orchestrator.api.result import RestorationResult as Result
    from orchestrator.api.result import open_result as open
    from orchestrator.api.tensor_sampling import sample
    from orchestrator.errors import PlanError, RunError

__all__ = [
    "JobOptions",
    "Plan",
    "PlanError",
    "Result",
    "Run",
    "RunCancelled",
    "RunError",
    "Task",
    "check",
    "open",
    "operators",
    "plan",
    "restore",
    "resume",
    "sample",
    "start",
]

_PLACES = {
    "JobOptions": ("orchestrator.api.job_options", "JobOptions"),
    "Plan": ("orchestrator.api.planned_restoration", "PlannedRestoration"),
    "PlanError": ("orchestrator.errors", "PlanError"),
    "Result": ("orchestrator.api.result", "RestorationResult"),
    "Run": ("orchestrator.api.background_run", "BackgroundRun"),
    "RunCancelled": ("orchestrator.api.errors", "RunCancelled"),
    "RunError": ("orchestrator.errors", "RunError"),
    "Task": ("orchestrator.api.restoration_task", "RestorationTask"),
    "check": ("orchestrator.api.network_check", "check"),
    "open": ("orchestrator.api.result", "open_result"),
    "operators": ("orchestrator.api.operator_helpers", ""),
    "plan": ("orchestrator.api.restoration", "plan"),
    "restore": ("orchestrator.api.restoration", "restore"),
    "resume": ("orchestrator.api.restoration", "resume"),
    "sample": ("orchestrator.api.tensor_sampling", "sample"),
    "start": ("orchestrator.api.restoration", "start"),
}
"""Module and name of each; without a name the module itself."""


def __getattr__(name: str) -> object:
    """Load a name when it is used for the first time."""
    if name not in _PLACES:
        raise AttributeError(f"module 'gigarestore' has no attribute {name!r}")
    from importlib import import_module

    place, inner = _PLACES[name]
    module = import_module(place)
    value: object = getattr(module, inner) if inner else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
