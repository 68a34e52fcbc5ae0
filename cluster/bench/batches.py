"""`bench batch`: how busy workers are when images share them, against one image at a time; workers
only let time pass.

Everything but the network is real, as in `bench scheduler`. An image ends a while after its last
tile (it is published and verified then), and the next takes a while to begin (it is staged):
`between` seconds in all.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.bench.scheduler import grid_plan, simulated
from orchestrator.events import BatchCommitted, Event, EventLog
from orchestrator.job.plan import Plan
from orchestrator.run.run_queue import Elsewhere, RunQueue
from orchestrator.run.session import Session
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import Frontier
from orchestrator.scheduling.simulator import Device, simulate
from storage.run_store.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """One batch with a number of images open at a time."""

    window: int
    seconds: float
    """From the first tile's beginning to the last one's end."""
    utilisation: float
    """Share of the workers' time that was spent on tiles."""


class _BatchClock:
    """Time from the first tile's beginning to the last one's end, and what was worked meanwhile, s."""

    def __init__(self) -> None:
        self._began = self._ended = self.busy = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchCommitted):
            self._ended = event.ended
            self._began = self._began or self._ended - event.seconds
            self.busy += event.seconds

    @property
    def seconds(self) -> float:
        return self._ended - self._began


def measure(
    plan: Plan,
    images: int,
    window: int,
    device: Device,
    workers: int,
    batch: int,
    between: float = 0.0,
) -> Shared:
    """Run the tiles of so many images of one plan, `window` of them at a time, on simulated
    workers.
    """
    from orchestrator.ray_backend.executor import RayExecutor

    clock = _BatchClock()
    arrivals = RunQueue()
    left = list(range(images))
    executor = Elsewhere(arrivals, "ray")
    working = [window]
    with tempfile.TemporaryDirectory(prefix="gigarestore-bench-") as folder:

        def work() -> None:
            while left:
                run = RunDir(Path(folder) / str(left.pop(0)))
                arrivals.more = bool(left)
                run.state.mkdir(parents=True)
                log = EventLog(run.events)
                executor.execute(
                    Session(
                        run,
                        plan,
                        Frontier(plan.graph()),
                        Journal.create(run.journal, {}),
                        [log, clock],
                    )
                )
                log.close()
                time.sleep(between)
            working[0] -= 1
            if not working[0]:
                arrivals.close()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(window)]
        for thread in threads:
            thread.start()
        RayExecutor(workers, batch, kind=simulated(device, workers)).serve(arrivals)
        for thread in threads:
            thread.join()
    return Shared(
        window=window, seconds=clock.seconds, utilisation=clock.busy / (workers * clock.seconds)
    )


def run_bench(
    rows: int,
    cols: int,
    order: str,
    images: int,
    windows: Sequence[int],
    device: Device,
    workers: int,
    batch: int,
    between: float,
) -> list[Shared]:
    """Measure for each number of open images, print a table, and one JSON line last."""
    plan = grid_plan(rows, cols, order)
    console = Console(highlight=False, soft_wrap=True, width=120)
    alone = simulate(plan.graph(), device, workers, batch)
    console.print(
        f"{images} images of {rows}x{cols} = {rows * cols:,} tiles, order {order}, {workers} workers, batches of {batch}, "
        f"{device.per_call:g} s + {device.per_tile:g} s a tile, jitter {device.jitter:.0%}; one image alone, simulated: "
        f"{alone.makespan:.2f} s, busy {alone.utilisation:.0%}"
    )
    found = [measure(plan, images, window, device, workers, batch, between) for window in windows]
    table = Table("open images", "time", "busy", box=None, pad_edge=False)
    for m in found:
        table.add_row(f"{m.window}", f"{m.seconds:.2f}", f"{m.utilisation:.1%}")
    console.print(table)
    shape = {
        "rows": rows,
        "cols": cols,
        "order": order,
        "images": images,
        "workers": workers,
        "batch": batch,
    }
    print(
        json.dumps(
            {
                "bench": "batch",
                **shape,
                "device": asdict(device),
                "runs": [asdict(m) for m in found],
            }
        )
    )
    return found
