"""ObjectRefs: the references that put the tiles' dependencies into Ray's own graph, dropped when
nobody needs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.task_graph import TaskGraph


@dataclass(slots=True)
class ObjectRefs:
    """References of committed tiles' reports, kept until every tile that waits for them has been
    dispatched.
    """

    refs: dict[int, Any] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)

    def keep(self, graph: TaskGraph, keys: tuple[TileKey, ...], ref: Any) -> None:
        for number in map(graph.number, keys):
            if successors := graph.fan_out(number):
                self.refs[number] = ref
                self.waiting[number] = successors

    def spend(self, graph: TaskGraph, keys: list[TileKey]) -> list[Any]:
        """Return the distinct references that a batch depends on; a retried tile may find some
        already dropped.
        """
        needed: dict[Any, None] = {}
        for number in map(graph.number, keys):
            for before in graph.awaited(number):
                if before in self.refs:
                    needed[self.refs[before]] = None
                    self.waiting[before] -= 1
                    if self.waiting[before] <= 0:
                        del self.refs[before], self.waiting[before]
        return list(needed)
