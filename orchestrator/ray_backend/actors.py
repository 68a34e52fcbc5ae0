"""What the Ray executor's actors are. Loads neither Ray nor torch: a worker does, in its own
process.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.errors import RunError, WorkerBroken, WorkerError
from orchestrator.job.plan import Plan
from orchestrator.retry import retry_store
from orchestrator.worker.batch_request import BatchCall

if TYPE_CHECKING:
    from orchestrator.worker.worker import Worker

_log = logging.getLogger(__name__)


class WorkerInfo(NamedTuple):
    """What a worker says of itself when it is ready."""

    name: str
    """host:pid"""
    device: str
    threads: int = 1
    """Threads that its computations on the CPU use."""
    niceness: int = 0
    node: str = ""
    """Ray's name of the machine."""


def introduce(device: str, threads: int = 1) -> WorkerInfo:
    """Introduce the worker in this process, an actor's."""
    from orchestrator.ray_backend.node_inventory import this_node  # Ray, which runs this

    return WorkerInfo(
        f"{socket.gethostname()}:{os.getpid()}", device, threads, os.nice(0), this_node()
    )


class RayWorker:
    """One device behind Ray's calls, several of which may be under way, each in a thread of its
    own.

    It has a Worker for each run that is open. Threads rather than coroutines: half the processor
    time a call, and a third of a millisecond sooner.
    """

    def __init__(self) -> None:
        from orchestrator.worker.pipeline import Pipeline  # torch: the driver can do without
        from orchestrator.worker.tile_sampler import choose_device

        self._device = choose_device()
        self._pipeline = Pipeline()
        self._workers: dict[int, Worker] = {}
        self._networks: dict[tuple[Any, ...], Any] = {}
        self._used: dict[int, tuple[Any, ...]] = {}
        self._opening = threading.Lock()

    def ready(self) -> WorkerInfo:
        """Return who this is."""
        import torch

        return introduce(str(self._device), torch.get_num_threads())

    def open(self, run: int, root: str, plan: Plan) -> None:
        """Get ready for the tiles of one more run: its network, its stores."""
        from orchestrator.worker.worker import Worker

        def begin() -> Worker:
            return Worker(Path(root), plan, str(self._device), partial(self._network, run))

        try:
            with self._opening:
                self._workers[run] = retry_store(begin, plan.spec.run.store_seconds, _log.warning)
        except Exception as err:
            raise plain(err) from None

    def close(self, run: int) -> None:
        """Forget a run; its network stays until another one is loaded."""
        self._workers.pop(run, None)
        self._used.pop(run, None)

    def run(self, call: bytes, *after: bytes) -> bytes:
        """Restore a batch (a packed BatchCall) and report it; `after` are the reports of the tiles
        that it depends on.
        """
        _, run, keys = BatchCall.of(call)
        try:
            report = self._pipeline.submit(self._workers[run], list(keys)).result()
        except Exception as err:
            raise plain(err) from None
        return report.packed()

    def fill(self, call: bytes) -> bytes:
        """Write what stands in for tiles that cannot be restored (orchestrator.worker.fallback)."""
        _, run, keys = BatchCall.of(call)
        try:
            report = self._workers[run].substitute(list(keys))
        except Exception as err:
            raise plain(err) from None
        return report.packed()

    def _network(self, run: int, *name: Any) -> Any:
        """Return a run's network, shared with the others; one that nobody uses goes before another
        is loaded.
        """
        from kernels.denoisers.denoiser import load_denoiser

        if name not in self._networks:
            self._networks = {used: self._networks[used] for used in set(self._used.values())}
            self._networks[name] = load_denoiser(*name)
        self._used[run] = name
        return self._networks[name]


def plain(error: Exception) -> Exception:
    """Return an error that the driver can read without torch; WorkerBroken where the device is lost
    for this process.
    """
    from kernels.device_errors import device_lost  # torch: a worker has it anyway

    if device_lost(error):
        return WorkerBroken(f"{type(error).__name__}: {error}".splitlines()[0])
    if isinstance(error, OSError | RunError):
        return error
    return WorkerError(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKind:
    """What the executor's actors are. The default restores; the scheduler's benchmark only lets
    time pass.
    """

    actor: type = RayWorker
    """Its methods are RayWorker's, called from several threads."""
    arguments: tuple[Any, ...] = ()
    """Of its constructor."""
    slots: int = 1
    """Workers that share one process; a call says which of them is meant."""
    gpus: bool = True
    """Take a GPU each where there are any."""
    gather: bool = False
    """Begin when all workers have joined, not when the first has: for measurements."""
