"""Usage: how much of the time that workers were there they spent on tiles, whichever runs these
belonged to.
"""

from __future__ import annotations

import threading
import time

from orchestrator.events import BatchCommitted, Event, WorkerLost, WorkerStarted

# Spans of a worker that are remembered, the last ones: runs tell of its batches within a second or
# so of their ends.
KEPT = 256

Span = tuple[float, float]
"""From when until when, s."""


def cover(spans: list[Span], span: Span) -> float:
    """Add a span to disjoint ones, in order of time; return how much of it they did not cover yet,
    s.
    """
    met = [other for other in spans if other[0] <= span[1] and other[1] >= span[0]]
    whole = (
        (min(span[0], *(lo for lo, _ in met)), max(span[1], *(hi for _, hi in met)))
        if met
        else span
    )
    spans[:] = sorted([*(other for other in spans if other not in met), whole])[-KEPT:]
    return max(whole[1] - whole[0] - sum(hi - lo for lo, hi in met), 0.0)


class Usage:
    """Listen to all runs that share workers; a worker counts from the first run that it is ready
    for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._spans: dict[str, list[Span]] = {}
        self._present = 0.0
        self._most = 0
        self._began = self._ended = 0.0
        self.busy = 0.0
        """Worker seconds spent on committed batches; where two of a worker overlap they count once.
        """
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
                case BatchCommitted(
                    worker=worker, seconds=seconds, nfe=nfe, keys=keys, ended=ended
                ):
                    self.busy += cover(self._spans.setdefault(worker, []), (ended - seconds, ended))
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
        """Busy worker seconds over all of them, from each worker's joining to the last tile; None
        before the first.
        """
        with self._lock:
            present = self._present + sum(
                max(self._ended - since, 0.0) for since in self._since.values()
            )
        return min(self.busy / present, 1.0) if present > 0 else None
