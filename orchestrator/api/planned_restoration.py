"""What a restoration would take: the checked plan and its cost in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.job.plan import Plan
from orchestrator.job.spec import JobSpec
from orchestrator.planning.estimate import Estimate, estimate
from orchestrator.planning.network_trial import plan_tried


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRestoration:
    """A job that could run, and its cost."""

    plan: Plan
    """Levels and tiles, and the job with everything that was chosen for it."""
    numbers: Estimate
    """Tiles, network evaluations, critical path; bytes of memory and disk; seconds."""

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the output, px."""
        return self.plan.height, self.plan.width

    def __repr__(self) -> str:
        known = self.numbers.seconds
        time = "" if known is None else f", about {known:.0f} s on {self.numbers.workers} workers"
        height, width = self.size
        return (
            f"<Plan {self.plan.spec.task.name}: {height} x {width} px, {self.numbers.tiles} tiles, "
            f"{self.numbers.nfe} network evaluations, "
            f"{self.numbers.disk / 1e6:.0f} MB of disk{time}>"
        )


def plan_restoration(
    spec: JobSpec, workers: int, step_seconds: float | None = None
) -> PlannedRestoration:
    """Plan a job; raises PlanError for everything that can be refused beforehand.

    step_seconds: of one network evaluation of one tile; None: as it is known of the network.
    """
    planned = plan_tried(spec)
    return PlannedRestoration(plan=planned, numbers=estimate(planned, workers, step_seconds))
