"""Usage: how much of the time that workers were there they spent on tiles, whichever runs these belonged to."""

from __future__ import annotations

import threading
import time

from orchestrator.events import BatchCommitted, Event, WorkerLost, WorkerStarted


class Usage:
    """Listen to all runs that share workers; a worker counts from the first run that it is ready for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._until: dict[str, float] = {}
        self._present = 0.0
        self._most = 0
        self._began = self._ended = 0.0
        self.busy = 0.0
        """Worker seconds spent on committed batches; where two of a worker overlap they count once."""
        self.nfe = self.tiles = 0

    def __call__(self, event: Event) -> None:
        now = time.time()
        with self._lock:
            match event:
                case WorkerStarted(worker=worker):
                    self._began = self._began or now
                    self._since.setdefault(worker, now)
                    self._most = max(self._most, len(self._since))
                case WorkerLost(worker=worker) if worker in self._since:
                    self._present += now - self._since.pop(worker)
                case BatchCommitted(worker=worker, seconds=seconds, nfe=nfe, keys=keys, ended=ended):
                    self.busy += max(ended - max(ended - seconds, self._until.get(worker, 0.0)), 0.0)
                    self._until[worker] = max(ended, self._until.get(worker, 0.0))
                    self._ended = max(ended, self._ended)
                    self.nfe += nfe
                    self.tiles += len(keys)

    @property
    def workers(self) -> int:
        """Most workers at a time."""
        return self._most

    @property
    def seconds(self) -> float:
        """Time from the first worker's joining to the last tile."""
        return max(self._ended - self._began, 0.0)

    @property
    def share(self) -> float | None:
        """Busy worker seconds over all of them, from each worker's joining to the last tile; None before the first."""
        with self._lock:
            present = self._present + sum(max(self._ended - since, 0.0) for since in self._since.values())
        return min(self.busy / present, 1.0) if present > 0 else None
