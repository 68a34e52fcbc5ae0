"""How fast a run goes and how long it will take: from its last batches, and from the chain of tiles
that is left.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Batches that the rate is taken from: enough to be steady, few enough to notice a lost worker.
RECENT = 256


@dataclass(frozen=True, slots=True)
class _TimedBatch:
    time: float
    seconds: float
    tiles: int
    nfe: int


@dataclass(slots=True)
class Throughput:
    """Fed with a run's events; times in s on any clock that all of them share."""

    tiles: int = 0
    done: int = 0
    path: int = 0
    """Tiles on the longest chain that is left."""
    _began: float = 0.0
    _recent: deque[_TimedBatch] = field(default_factory=lambda: deque(maxlen=RECENT))

    def started(self, time: float, tiles: int, done: int) -> None:
        """Begin an attempt."""
        self.tiles = tiles
        self.done = done
        self._began = time
        self._recent.clear()

    def committed(self, time: float, seconds: float, tiles: int, nfe: int, path: int) -> None:
        """Add a batch."""
        self.done = self.done + tiles
        self.path = path
        self._recent.append(_TimedBatch(time, seconds, tiles, nfe))

    def nfe_per_second(self, now: float) -> float:
        """Return the network evaluations per second of the recent batches."""
        if not self._recent:
            return 0.0
        evaluations = sum(batch.nfe for batch in self._recent)
        return evaluations / self._span(now)

    @property
    def batch(self) -> float:
        """Mean number of tiles of the recent batches."""
        if not self._recent:
            return 0.0
        return self._tiles / len(self._recent)

    def seconds_left(self, now: float) -> float | None:
        """Return the time that is left: that of the work at this rate, at least that of the chain;
        None: not known.
        """
        if not self._recent:
            return None
        rate = self._tiles / self._span(now)
        seconds = sum(batch.seconds for batch in self._recent)
        mean = seconds / len(self._recent)
        work = (self.tiles - self.done) / rate
        chain = self.path * mean
        return max(work, chain)

    @property
    def _tiles(self) -> int:
        return sum(batch.tiles for batch in self._recent)

    def _span(self, now: float) -> float:
        """Return the seconds since the first of the recent batches began."""
        began = self._began
        if len(self._recent) == RECENT:
            first = self._recent[0]
            began = first.time - first.seconds
        return max(now - began, 1e-6)
