"""Join a running Ray cluster and wait for its nodes; the executor goes on with that connection."""

from __future__ import annotations

import logging
import signal
import time

PAUSE = 0.5


def gather(address: str, nodes: int, patience: float) -> int:
    """Return how many nodes live: `nodes`, or as many as have come after `patience` seconds; later ones may still join."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray's own handler would end the driver before it says how
    began = time.monotonic()
    while True:
        alive = sum(node["Alive"] for node in ray.nodes())
        if alive >= nodes or time.monotonic() - began > patience:
            return int(alive)
        time.sleep(PAUSE)
