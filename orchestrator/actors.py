"""What the Ray executor's actors are. Loads neither Ray nor torch: a worker does, in its own process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.grid import TileKey
from orchestrator.plan import Plan
from orchestrator.session import Session


class RayWorker:
    """A Worker behind Ray's calls, several of which may be under way."""

    def __init__(self, root: str, plan: Plan, batch: int, continuous: bool) -> None:
        from orchestrator.pipeline import Pipeline  # torch: the driver can do without
        from orchestrator.worker import Worker

        self._worker = Worker(Path(root), plan)
        self._pipeline = Pipeline(self._worker, batch if continuous else None)

    async def ready(self) -> tuple[str, str]:
        """Return (host:pid, device)."""
        return f"{socket.gethostname()}:{os.getpid()}", str(self._worker.device)

    async def run(self, slot: int, keys: list[list[int]], *after: list[Any]) -> list[Any]:
        """Restore a batch and report it; `after` are the reports of the tiles that it depends on."""
        report = await asyncio.wrap_future(self._pipeline.submit([TileKey(*key) for key in keys]))
        return report.plain()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKind:
    """What the executor's actors are. The default restores; the scheduler's benchmark only lets time pass."""

    actor: type = RayWorker
    """Its coroutines `ready` and `run` are RayWorker's."""
    arguments: Callable[[Session, int, bool], tuple[Any, ...]] = lambda session, batch, continuous: (
        str(session.run_dir.root.absolute()),
        session.plan,
        batch,
        continuous,
    )
    """Of its constructor, from session, tiles at a time, and whether they join at any step."""
    slots: int = 1
    """Workers that share one process; `run` is told which of them is meant."""
    gpus: bool = True
    """Take a GPU each where there are any."""
    gather: bool = False
    """Begin when all workers have joined, not when the first has: for measurements."""
