"""A run's figures for Prometheus, through Ray's metrics API: scraped from the node that the driver
runs on.
"""

from __future__ import annotations

import time

from ray.util.metrics import Counter, Gauge

from orchestrator.events import Event
from orchestrator.monitoring.run_summary import RunSummary

_COUNTERS = {
    "tiles_committed": "Tiles made durable by this driver.",
    "network_evaluations": "Network evaluations of the committed tiles.",
    "busy_seconds": "Seconds that workers spent on committed batches.",
    "tries_failed": "Tries of batches that failed.",
    "tiles_given_up": "Tiles that failed in their last try.",
    "workers_lost": "Workers that died or were given up.",
}


class RayMetrics:
    """Listen to a run's events and keep its counters; `output` tells runs on one cluster apart,
    `left`: its tiles.

    Ray hears of them at every `flush`: nobody scrapes as often as batches end.
    """

    def __init__(self, output: str, left: int) -> None:
        tag = ("output",)
        self._counters = {
            name: Counter(f"gigarestore_{name}", description, tag)
            for name, description in _COUNTERS.items()
        }
        self._left = Gauge("gigarestore_tiles_left", "Tiles that are not committed yet.", tag)
        self._workers = Gauge("gigarestore_workers", "Workers that have joined.", tag)
        for metric in (*self._counters.values(), self._left, self._workers):
            metric.set_default_tags({"output": output})
        self._summary = RunSummary(tiles=left)
        self._flushed = dict.fromkeys(_COUNTERS, 0.0)
        self.flush()

    def __call__(self, event: Event) -> None:
        self._summary.add(event, time.time())

    def flush(self) -> None:
        """Tell Ray what has changed."""
        totals = _totals(self._summary)
        for name, total in totals.items():
            news = total - self._flushed[name]
            if news > 0:
                self._counters[name].inc(news)
        self._flushed = totals
        self._left.set(self._summary.tiles - self._summary.done)
        self._workers.set(self._summary.times.present)


def _totals(summary: RunSummary) -> dict[str, float]:
    return {
        "tiles_committed": summary.committed,
        "network_evaluations": summary.nfe,
        "busy_seconds": summary.times.busy,
        "tries_failed": summary.failures,
        "tiles_given_up": len(summary.given_up),
        "workers_lost": summary.times.losses,
    }
