"""What the loop of a driver, its handlers and its checks share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.ray_backend.actor_pool import Member, Pool
from orchestrator.ray_backend.connection import Cluster
from orchestrator.ray_backend.event_queue import EventQueue
from orchestrator.ray_backend.run_registry import RunRegistry
from orchestrator.ray_backend.run_state import RunState
from orchestrator.scheduling.dispatcher import Dispatcher
from orchestrator.tiling.grid import TileKey


@dataclass(slots=True, eq=False)
class InflightCall:
    """A batch under way on a worker."""

    run: RunState
    worker: Member
    keys: list[TileKey]
    began: float
    """By the monotonic clock, s."""
    allowed: float
    """Seconds after which the worker counts as hung."""

    def silence(self, now: float) -> float:
        """Return the seconds since it was sent, or since the worker reported its last one."""
        return now - max(self.began, self.worker.heard)

    def overdue(self, now: float) -> bool:
        """Tell whether the worker counts as hung."""
        return self.silence(now) > self.allowed


@dataclass(slots=True, eq=False, kw_only=True)
class DriverState:
    """Everything that a driver knows while it serves runs."""

    cluster: Cluster
    queue: EventQueue
    registry: RunRegistry
    pool: Pool
    dispatcher: Dispatcher[Member]
    inflight: dict[Any, InflightCall] = field(default_factory=dict)
    """By the reference of its report, in the order in which they were sent."""
