"""Which executor a job asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.spec import RunSpec

if TYPE_CHECKING:
    from orchestrator.ray_executor import RayExecutor
    from orchestrator.serial import SerialExecutor
    from orchestrator.stopping import Stop


def pick(run: RunSpec, stop: Stop) -> RayExecutor | SerialExecutor:
    """Return the executor; only the one that is chosen is loaded."""
    if run.executor == "serial":
        from orchestrator.serial import SerialExecutor

        return SerialExecutor(stop)
    from orchestrator.ray_executor import RayExecutor

    return RayExecutor(run.workers, run.batch, run.address, batching=run.batching, stop=stop)
