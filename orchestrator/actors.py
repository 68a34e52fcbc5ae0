"""What the Ray executor's actors are. Loads neither Ray nor torch: a worker does, in its own process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.errors import RunError, WorkerBroken, WorkerError
from orchestrator.grid import TileKey
from orchestrator.patience import patiently
from orchestrator.plan import Plan
from orchestrator.report import Report

if TYPE_CHECKING:
    from orchestrator.worker import Worker

_log = logging.getLogger(__name__)


class Introduction(NamedTuple):
    """What a worker says of itself when it is ready."""

    name: str
    """host:pid"""
    device: str
    threads: int = 1
    """Threads that its computations on the CPU use."""
    niceness: int = 0


def introduce(device: str, threads: int = 1) -> Introduction:
    """Introduce the worker in this process."""
    return Introduction(f"{socket.gethostname()}:{os.getpid()}", device, threads, os.nice(0))


class RayWorker:
    """One device behind Ray's calls, several of which may be under way: a Worker for each run that is open."""

    def __init__(self, batch: int, continuous: bool) -> None:
        from orchestrator.pipeline import Pipeline  # torch: the driver can do without
        from orchestrator.worker import choose_device

        self._device = choose_device()
        self._pipeline = Pipeline(batch if continuous else None)
        self._workers: dict[int, Worker] = {}
        self._networks: dict[tuple[Any, ...], Any] = {}
        self._used: dict[int, tuple[Any, ...]] = {}
        self._opener = ThreadPoolExecutor(1, "opener")

    async def ready(self) -> Introduction:
        """Return who this is."""
        import torch

        return introduce(str(self._device), torch.get_num_threads())

    async def open(self, run: int, root: str, plan: Plan) -> None:
        """Get ready for the tiles of one more run: its network, its stores."""
        await self._elsewhere(self._opener, self._open, run, Path(root), plan)

    async def close(self, run: int) -> None:
        """Forget a run; its network stays until another one is loaded."""
        self._workers.pop(run, None)
        self._used.pop(run, None)

    async def run(self, slot: int, run: int, keys: list[list[int]], *after: list[Any]) -> list[Any]:
        """Restore a batch and report it; `after` are the reports of the tiles that it depends on."""
        try:
            report = await asyncio.wrap_future(self._pipeline.submit(self._workers[run], _keys(keys)))
        except Exception as err:
            raise plain(err) from None
        return report.plain()

    async def fill(self, slot: int, run: int, keys: list[list[int]]) -> list[Any]:
        """Write what stands in for tiles that cannot be restored (orchestrator.substitute)."""
        report: Report = await self._elsewhere(None, self._workers[run].substitute, _keys(keys))
        return report.plain()

    async def _elsewhere(self, threads: ThreadPoolExecutor | None, act: Callable[..., Any], *arguments: Any) -> Any:
        """Do something that takes time on another thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, act, *arguments)
        except Exception as err:
            raise plain(err) from None

    def _open(self, run: int, root: Path, plan: Plan) -> None:
        from orchestrator.worker import Worker

        seconds = plan.spec.run.store_seconds
        load = partial(self._network, run)
        self._workers[run] = patiently(lambda: Worker(root, plan, str(self._device), load), seconds, _log.warning)

    def _network(self, run: int, *name: Any) -> Any:
        """Return a run's network, shared with the others; one that nobody uses goes before another is loaded."""
        from kernels.denoiser import load_denoiser

        if name not in self._networks:
            self._networks = {used: self._networks[used] for used in set(self._used.values())}
            self._networks[name] = load_denoiser(*name)
        self._used[run] = name
        return self._networks[name]


def _keys(plain: list[list[int]]) -> list[TileKey]:
    return [TileKey(*key) for key in plain]


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
    """Its coroutines are RayWorker's."""
    arguments: Callable[[int, bool], tuple[Any, ...]] = lambda batch, continuous: (batch, continuous)
    """Of its constructor, from the tiles at a time, and whether they join at any step."""
    slots: int = 1
    """Workers that share one process; `run` is told which of them is meant."""
    gpus: bool = True
    """Take a GPU each where there are any."""
    gather: bool = False
    """Begin when all workers have joined, not when the first has: for measurements."""
