"""What Ray's calls alone cost: the least for a driver that sends its batches call by call (bench
scheduler).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.job.plan import Plan
from orchestrator.ray_backend.actor_pool import start_actor
from orchestrator.ray_backend.actors import WorkerKind
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_report import Report
from orchestrator.worker.batch_request import BatchCall

# References that a call carries: those of the last calls that ended, about as many as a batch has
# predecessors.
REFERENCES = 5


@dataclass(frozen=True, slots=True)
class Bare:
    """What a call costs that ends, and the one that follows it, on average."""

    cpu: float
    """CPU time of the driver's process, s."""
    gap: float
    """What lies between the time that a worker spends on a batch and that until it is given the
    next, s.
    """


@dataclass(frozen=True, slots=True)
class _BareCall:
    handle: Any
    packed: bytes
    began: float


def bare_calls(kind: WorkerKind, plan: Plan, workers: int, batch: int, seconds: float) -> Bare:
    """Measure calls of Ray's: each worker is given its next batch when it has ended one, and
    nothing else happens.

    kind: workers that do not care which tiles they are given; batch: tiles in a call; seconds: how
    long to measure. Ray is running, with room for the workers.
    """
    slots = [divmod(number, kind.slots) for number in range(workers)]
    handles = [start_actor(kind, kind.slots) for _ in range(slots[-1][0] + 1)]
    try:
        ray.get([handle.open.remote(0, "", plan) for handle in handles])
        keys = tuple(TileKey(0, 0, column) for column in range(batch))
        inflight: dict[Any, _BareCall] = {}
        for process, slot in slots:
            _send(inflight, handles[process], BatchCall(slot, 0, keys).packed())
        return _measure(inflight, seconds)
    finally:
        for handle in handles:
            ray.kill(handle)


def _send(
    inflight: dict[Any, _BareCall], handle: Any, packed: bytes, after: Iterable[Any] = ()
) -> None:
    inflight[handle.run.remote(packed, *after)] = _BareCall(handle, packed, time.perf_counter())


def _measure(inflight: dict[Any, _BareCall], seconds: float) -> Bare:
    last = deque[Any](maxlen=REFERENCES)
    ended = 0
    gaps = 0.0
    began = time.perf_counter()
    cpu = time.process_time()
    while time.perf_counter() - began < seconds or not ended:
        for ref in ray.wait(list(inflight), num_returns=1)[0]:
            call = inflight.pop(ref)
            report = Report.of((), ray.get(ref))
            gaps += time.perf_counter() - call.began - report.seconds
            last.append(ref)
            _send(inflight, call.handle, call.packed, last)
            ended += 1
    return Bare((time.process_time() - cpu) / ended, gaps / ended)
