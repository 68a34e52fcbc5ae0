"""Workers that only let time pass, for measuring the scheduler: what a device would take, give or
take a jitter.
"""

from __future__ import annotations

import time
from threading import Lock

from orchestrator.job.plan import Plan
from orchestrator.ray_backend.actors import WorkerInfo, introduce
from orchestrator.scheduling.simulator import Device
from orchestrator.worker.batch_report import Report
from orchestrator.worker.batch_request import BatchCall


class SimulatedWorker:
    """Take the time that devices would; several share a process.

    A device keeps its own time: what it has to do it begins when the last thing ended, however late
    its process woke.
    """

    def __init__(self, device: Device, slots: int) -> None:
        self._device = device
        self._columns = dict[int, int]()
        self._free = [0.0] * slots
        self._lock = Lock()

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
        cost = self._device.seconds(len(keys), first=number)
        with self._lock:
            end = max(now, self._free[slot]) + cost
            self._free[slot] = end
        _sleep_until(end)
        return Report((), cost, len(keys)).packed()


def _sleep_until(end: float) -> None:
    time.sleep(max(end - time.perf_counter(), 0.0))
