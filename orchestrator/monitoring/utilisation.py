"""Usage: how much of the time that workers were there they spent on tiles, whichever runs these
belonged to.
"""

from __future__ import annotations

import threading
import time

from orchestrator.events import BatchCommitted, Event, WorkerLost, WorkerStarted
from orchestrator.monitoring.worker_times import WorkerTimes

# Spans of a worker that are remembered, the last ones: runs tell of its batches within a second or
# so of their ends.
KEPT = 256

Span = tuple[float, float]
"""From when until when, s."""


def cover(spans: list[Span], span: Span) -> float:
    """Add a span to disjoint ones, in order of time; return how much of it they did not cover yet,
    s.
    """
    begin, end = span
    met = [other for other in spans if other[0] <= end and other[1] >= begin]
    apart = [other for other in spans if other not in met]
    union = (min([begin, *(lo for lo, _ in met)]), max([end, *(hi for _, hi in met)]))
    spans[:] = sorted([*apart, union])[-KEPT:]
    covered = sum(hi - lo for lo, hi in met)
    return max(union[1] - union[0] - covered, 0.0)


class Usage:
    """Listen to all runs that share workers; a worker counts from the first run that it is ready
    for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times = WorkerTimes()
        self._spans: dict[str, list[Span]] = {}
        self._most = 0
        self._began = 0.0
        self._ended = 0.0
        self.busy = 0.0
        """Worker seconds spent on committed batches; where two of a worker overlap they count once.
        """
        self.nfe = 0
        self.tiles = 0

    def __call__(self, event: Event) -> None:
        now = time.time()
        with self._lock:
            match event:
                case WorkerStarted(worker=worker):
                    self._join(event, worker, now)
                case WorkerLost():
                    self._times.add(event, now)
                case BatchCommitted():
                    self._commit(event, now)

    def _join(self, event: WorkerStarted, worker: str, now: float) -> None:
        known = self._times.workers.get(worker)
        if known is None or not known.present:  # else it is ready for one more run
            self._times.add(event, now)
        self._began = self._began or now
        self._most = max(self._most, self._times.present)

    def _commit(self, event: BatchCommitted, now: float) -> None:
        self._times.add(event, now)
        spans = self._spans.setdefault(event.worker, [])
        self.busy += cover(spans, (event.ended - event.seconds, event.ended))
        self._ended = max(event.ended, self._ended)
        self.nfe += event.nfe
        self.tiles += len(event.keys)

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
        """Busy worker seconds over all of them, from each worker's joining to the last tile; None
        before the first.
        """
        with self._lock:
            present = 0.0
            for worker in self._times.workers.values():
                if worker.joined is not None:
                    left = self._ended if worker.left is None else worker.left
                    present += max(left - worker.joined, 0.0)
        return min(self.busy / present, 1.0) if present > 0 else None
