"""Workers that only let time pass, for measuring the scheduler: what a device would take, give or
take a jitter.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

from orchestrator.job.plan import Plan
from orchestrator.ray_backend.actors import WorkerInfo, introduce
from orchestrator.scheduling.simulator import Device
from orchestrator.worker.batch_report import Report
from orchestrator.worker.batch_request import BatchCall

# Network evaluations of a tile, at whose boundaries others may join.
EVALUATIONS = 10


def per_evaluation(device: Device) -> Device:
    """Return what one of a batch's EVALUATIONS costs."""
    return replace(
        device, per_call=device.per_call / EVALUATIONS, per_tile=device.per_tile / EVALUATIONS
    )


class SimulatedWorker:
    """Take the time that devices would; several share a process.

    A device keeps its own time: what it has to do it begins when the last thing ended, however late
    its process woke.
    """

    def __init__(self, device: Device, slots: int, batch: int, continuous: bool) -> None:
        self._device = device
        self._columns = dict[int, int]()
        self._free = [0.0] * slots
        self._lock = Lock()
        self._steppers = [_Stepper(device, batch) for _ in range(slots if continuous else 0)]

    def ready(self) -> WorkerInfo:
        """Return who this is."""
        return introduce("simulated")

    def open(self, run: int, root: str, plan: Plan) -> None:
        """Take a run's tiles from now on."""
        self._columns[run] = plan.levels[0].grid.cols.count

    def close(self, run: int) -> None:
        """Forget a run."""
        self._columns.pop(run, None)

    def run(self, call: bytes, *after: bytes) -> bytes:
        """Sleep as long as the batch takes."""
        slot, run, keys = BatchCall.of(call)
        _, row, col = keys[0]
        number = row * self._columns[run] + col
        now = time.perf_counter()
        if self._steppers:
            self._steppers[slot].run(len(keys), number)
            cost = time.perf_counter() - now
        else:
            cost = self._device.seconds(len(keys), first=number)
            with self._lock:
                end = self._free[slot] = max(now, self._free[slot]) + cost
            _sleep_until(end)
        return Report((), cost, len(keys)).packed()


class _Stepper:
    """A device that tiles join between two evaluations; a thread of its own."""

    def __init__(self, device: Device, batch: int) -> None:
        self._step = per_evaluation(device)
        self._batch = batch
        self._came: SimpleQueue[_Group] = SimpleQueue()
        Thread(target=self._go, daemon=True).start()

    def run(self, tiles: int, first: int) -> None:
        """Return when a group of tiles has had all its evaluations."""
        group = _Group(tiles, first)
        self._came.put(group)
        group.ended.wait()

    def _go(self) -> None:
        waiting = deque[_Group]()
        running = list[_Group]()
        end = 0.0
        steps = 0
        while True:
            if not running and not waiting:
                waiting.append(self._came.get())
                end = time.perf_counter()
            while (group := self._next()) is not None:
                waiting.append(group)
            busy = sum(group.tiles for group in running)
            while waiting and (not busy or busy + waiting[0].tiles <= self._batch):
                busy += waiting[0].tiles
                running.append(waiting.popleft())
            end += self._step.seconds(busy, first=running[0].first + steps)
            steps += 1
            _sleep_until(end)
            for group in running:
                group.left -= 1
                if not group.left:
                    group.ended.set()
            running = [group for group in running if group.left]

    def _next(self) -> _Group | None:
        try:
            return self._came.get_nowait()
        except Empty:
            return None


@dataclass(slots=True)
class _Group:
    """Tiles that joined together."""

    tiles: int
    first: int
    ended: Event = field(default_factory=Event)
    left: int = EVALUATIONS


def _sleep_until(end: float) -> None:
    time.sleep(max(end - time.perf_counter(), 0.0))
