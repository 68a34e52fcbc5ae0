"""What the Ray executor's actors are. Loads neither Ray nor torch: a worker does, in its own process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.grid import TileKey
from orchestrator.plan import Plan
from orchestrator.report import Report
from orchestrator.session import Session


class RayWorker:
    """A Worker behind Ray's calls."""

    def __init__(self, root: str, plan: Plan) -> None:
        from orchestrator.worker import Worker  # torch: the driver can do without

        self._worker = Worker(Path(root), plan)

    def ready(self) -> tuple[str, str]:
        """Return (host:pid, device)."""
        return f"{socket.gethostname()}:{os.getpid()}", str(self._worker.device)

    def run(self, keys: list[list[int]], *after: Report) -> Report:
        """Restore a batch; `after` are the reports of the tiles that it depends on."""
        return self._worker.run([TileKey(*key) for key in keys])


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKind:
    """What the executor's actors are. The default restores; the scheduler's benchmark only lets time pass."""

    actor: type = RayWorker
    """Its `ready` and `run` are RayWorker's; coroutines when there are several slots."""
    arguments: Callable[[Session], tuple[Any, ...]] = lambda session: (
        str(session.run_dir.root.absolute()),
        session.plan,
    )
    slots: int = 1
    """Workers that share one process."""
    gpus: bool = True
    """Take a GPU each where there are any."""
    gather: bool = False
    """Begin when all workers have joined, not when the first has: for measurements."""
