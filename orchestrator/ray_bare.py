"""What Ray's calls alone cost a driver: the least that one spends which sends its batches call by call (bench scheduler)."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import ray

from orchestrator.actors import WorkerKind
from orchestrator.batch_call import BatchCall
from orchestrator.grid import TileKey
from orchestrator.plan import Plan
from orchestrator.ray_pool import start_actor

# References that a call carries: those of the last calls that ended, about as many as a batch has predecessors.
REFERENCES = 5


def bare_calls(kind: WorkerKind, plan: Plan, workers: int, batch: int, seconds: float) -> float:
    """Return this process' CPU seconds a call: each worker is given its next batch when it has ended one, nothing else.

    kind: workers that do not care which tiles they are given; batch: tiles in a call; seconds: how long to measure.
    Ray is running, with room for the workers.
    """
    slots = [divmod(number, kind.slots) for number in range(workers)]
    handles = [start_actor(kind, kind.arguments(batch, False), kind.slots) for _ in range(slots[-1][0] + 1)]
    try:
        ray.get([handle.open.remote(0, "", plan) for handle in handles])
        keys = tuple(TileKey(0, 0, column) for column in range(batch))
        flying: dict[Any, tuple[Any, bytes]] = {}
        for process, slot in slots:
            handle, call = handles[process], BatchCall(slot, 0, keys).packed()
            flying[handle.run.remote(call)] = handle, call
        return _cost(flying, seconds)
    finally:
        for handle in handles:
            ray.kill(handle)


def _cost(flying: dict[Any, tuple[Any, bytes]], seconds: float) -> float:
    """Return the CPU seconds of a call that ends and the one that follows it, on average."""
    last, ended = deque[Any](maxlen=REFERENCES), 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds or not ended:
        for ref in ray.wait(list(flying), num_returns=1)[0]:
            handle, call = flying.pop(ref)
            ray.get(ref)
            last.append(ref)
            flying[handle.run.remote(call, *last)] = handle, call
            ended += 1
    return (time.process_time() - cpu) / ended
