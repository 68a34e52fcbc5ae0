"""What the Ray executor's actors are. Loads neither Ray nor torch: a worker does, in its own process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.errors import RunError, WorkerBroken, WorkerError
from orchestrator.grid import TileKey
from orchestrator.plan import Plan
from orchestrator.session import Session


class Introduction(NamedTuple):
    """What a worker says of itself when it is ready."""

    name: str
    """host:pid"""
    device: str
    threads: int = 1
    """Threads that its computations on the CPU use."""
    niceness: int = 0
    node: str = ""
    """Ray's name of the machine."""


def introduce(device: str, threads: int = 1) -> Introduction:
    """Introduce the worker in this process, an actor's."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return Introduction(f"{socket.gethostname()}:{os.getpid()}", device, threads, os.nice(0), node)


class RayWorker:
    """A Worker behind Ray's calls, several of which may be under way, each in a thread of its own.

    Threads rather than coroutines: half the processor time a call, and a third of a millisecond sooner.
    """

    def __init__(self, root: str, plan: Plan, batch: int, continuous: bool) -> None:
        from orchestrator.pipeline import Pipeline  # torch: the driver can do without
        from orchestrator.worker import Worker

        self._worker = Worker(Path(root), plan)
        self._pipeline = Pipeline(self._worker, batch if continuous else None)

    def ready(self) -> Introduction:
        """Return who this is."""
        return introduce(str(self._worker.device), self._worker.threads)

    def run(self, slot: int, keys: list[list[int]], *after: list[Any]) -> list[Any]:
        """Restore a batch and report it; `after` are the reports of the tiles that it depends on."""
        try:
            report = self._pipeline.submit([TileKey(*key) for key in keys]).result()
        except Exception as err:
            raise plain(err) from None
        return report.plain()

    def fill(self, slot: int, keys: list[list[int]]) -> list[Any]:
        """Write what stands in for tiles that cannot be restored (orchestrator.substitute)."""
        try:
            report = self._worker.substitute([TileKey(*key) for key in keys])
        except Exception as err:
            raise plain(err) from None
        return report.plain()


def plain(error: Exception) -> Exception:
    """Return an error that the driver can read without torch; WorkerBroken where the device is lost for this process."""
    from kernels.device_errors import device_lost  # torch: a worker has it anyway

    if device_lost(error):
        return WorkerBroken(f"{type(error).__name__}: {error}".splitlines()[0])
    if isinstance(error, OSError | RunError):
        return error
    return WorkerError(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKind:
    """What the executor's actors are. The default restores; the scheduler's benchmark only lets time pass."""

    actor: type = RayWorker
    """Its methods `ready` and `run` are RayWorker's, called from several threads."""
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
