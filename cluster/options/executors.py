"""Which executor a job asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.job.spec import RunSpec

if TYPE_CHECKING:
    from orchestrator.ray_backend.executor import RayExecutor
    from orchestrator.run.serial_executor import SerialExecutor
    from orchestrator.shutdown import Stop


def pick(run: RunSpec, stop: Stop) -> RayExecutor | SerialExecutor:
    """Return the executor; only the one that is chosen is loaded."""
    if run.executor == "serial":
        from orchestrator.run.serial_executor import SerialExecutor

        return SerialExecutor(stop)
    from orchestrator.ray_backend.executor import RayExecutor

    return RayExecutor(run.workers, run.batch, run.address, stop=stop)
