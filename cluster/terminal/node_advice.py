"""How many nodes and GPUs a plan is worth, and whether those that were thought of are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.job.plan import Plan
from orchestrator.planning.advice import Advice, advise, idle_warning
from orchestrator.planning.forecast import order_waves
from orchestrator.scheduling.batch_policy import CPU_BATCH, GPU_BATCH
from orchestrator.tiling.parallelism import Parallelism

# GPUs of a node where nobody says otherwise.
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What is recommended, and what is wrong with what was asked for."""

    gpu: Advice
    cpu: Advice
    warning: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"gpu": self.gpu.as_dict(), "cpu": self.cpu.as_dict(), "warning": self.warning}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesAsked:
    """The nodes that somebody thinks of, or the defaults of `submit`."""

    nodes: int
    cpus: int
    """Cores of each."""
    gpus: int
    """GPUs of each."""
    by_name: bool
    """Whether any of them was asked for; defaults are not."""

    @property
    def workers(self) -> int:
        """How many workers they are for."""
        return self.nodes * (self.gpus or self.cpus) if self.by_name else 1


def size_up(plan: Plan, shape: Parallelism, asked: NodesAsked) -> Sizing:
    """Return the nodes that keep busy, and a warning when more were asked for: by --workers, or by
    nodes of a size.

    shape: the plan's own parallelism.
    """
    run = plan.spec.run
    batch = run.batch or (GPU_BATCH if asked.gpus else CPU_BATCH)
    workers = run.workers or asked.workers
    warning = None
    if workers > shape.useful_workers(batch):
        orders = {
            order: {batch: waved.useful_workers(batch)}
            for order, waved in order_waves(plan).items()
        }
        warning = idle_warning(shape, workers, batch, orders)
    return Sizing(
        gpu=advise(shape, run.batch or GPU_BATCH, asked.gpus or GPUS_PER_NODE),
        cpu=advise(shape, run.batch or CPU_BATCH, asked.cpus),
        warning=warning,
    )


def describe(advice: Advice, kind: str) -> str:
    """Return an advice as a line for people."""
    nodes = "1 node" if advice.nodes == 1 else f"{advice.nodes:,} nodes"
    return (
        f"up to {advice.workers:,} {kind}, batches of {advice.batch}: {nodes} of {advice.per_node}"
    )
