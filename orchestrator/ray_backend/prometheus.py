"""A run's figures for Prometheus, through Ray's metrics API: scraped from the node that the driver
runs on.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from orchestrator.events import (
    BatchCommitted,
    BatchFailed,
    Event,
    TileGivenUp,
    WorkerLost,
    WorkerStarted,
)


class RayMetrics:
    """Listen to a run's events and keep its counters; `output` tells runs on one cluster apart,
    `left`: its tiles.

    Ray hears of them at every `flush`: nobody scrapes as often as batches end.
    """

    def __init__(self, output: str, left: int) -> None:
        tag = ("output",)
        self._counters = {
            name: Counter(f"gigarestore_{name}", description, tag)
            for name, description in (
                ("tiles_committed", "Tiles made durable by this driver."),
                ("network_evaluations", "Network evaluations of the committed tiles."),
                ("busy_seconds", "Seconds that workers spent on committed batches."),
                ("tries_failed", "Tries of batches that failed."),
                ("tiles_given_up", "Tiles that failed in their last try."),
                ("workers_lost", "Workers that died or were given up."),
            )
        }
        self._left = Gauge("gigarestore_tiles_left", "Tiles that are not committed yet.", tag)
        self._workers = Gauge("gigarestore_workers", "Workers that have joined.", tag)
        for metric in (*self._counters.values(), self._left, self._workers):
            metric.set_default_tags({"output": output})
        self._tiles_left = left
        self._joined = set[str]()
        self._news: dict[str, float] = {}
        self.flush()

    def __call__(self, event: Event) -> None:
        match event:
            case WorkerStarted(worker=worker):
                self._joined.add(worker)
            case WorkerLost(worker=worker):
                self._add("workers_lost", 1)
                self._joined.discard(worker)  # not there when it could not start
            case BatchCommitted(keys=keys, nfe=nfe, seconds=seconds):
                self._add("tiles_committed", len(keys))
                self._add("network_evaluations", nfe)
                self._add("busy_seconds", seconds)
                self._tiles_left -= len(keys)
            case BatchFailed():
                self._add("tries_failed", 1)
            case TileGivenUp():
                self._add("tiles_given_up", 1)

    def flush(self) -> None:
        """Tell Ray what has changed."""
        for name, value in self._news.items():
            if value > 0:
                self._counters[name].inc(value)
        self._news.clear()
        self._left.set(self._tiles_left)
        self._workers.set(len(self._joined))

    def _add(self, name: str, value: float) -> None:
        self._news[name] = self._news.get(name, 0.0) + value
