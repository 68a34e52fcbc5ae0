"""How many workers and nodes a plan is worth, from the parallelism of its graph: more would mostly
wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.tiling.parallelism import Parallelism


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The most workers of one kind that a graph keeps busy, and the nodes that hold them."""

    workers: int
    """GPUs, or CPU cores."""
    batch: int
    """Tiles that each has at a time."""
    nodes: int
    per_node: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def advise(shape: Parallelism, batch: int, per_node: int) -> Advice:
    """Return whole nodes of up to `per_node` workers that the graph keeps busy; at least one
    worker.
    """
    useful = shape.useful_workers(batch)
    nodes = max(1, useful // per_node)
    each = min(per_node, useful)
    return Advice(workers=nodes * each, batch=batch, nodes=nodes, per_node=each)


def idle_warning(
    shape: Parallelism, workers: int, batch: int, useful: Mapping[str, Mapping[int, int]]
) -> str | None:
    """Say how many of `workers` would idle, and which order would keep more of them busy; None when
    all are worth it.

    useful: per order and batch the workers that it keeps busy (orchestrator.planning.forecast).
    """
    busy = shape.useful_workers(batch)
    if workers <= busy:
        return None
    text = (
        f"of {workers:,} workers about {workers - busy:,} would idle: "
        f"the graph keeps {busy:,} busy in batches of {batch}"
    )
    most, order = max(
        ((counts.get(batch, 0), order) for order, counts in useful.items()), default=(0, "")
    )
    if most > busy:
        return f"{text}; take fewer, or --order {order}, which keeps {most:,} busy"
    return f"{text}; take fewer"
