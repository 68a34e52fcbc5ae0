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
from orchestrator.event_log import EventLog
from orchestrator.events import BatchCommitted, Event
from orchestrator.job.plan import Plan
from orchestrator.run.run_queue import Elsewhere, RunQueue
from orchestrator.run.session import Session
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.frontier import Frontier
from orchestrator.scheduling.simulator import Device, simulate
from storage.run_store.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWorkers:
    """One batch with a number of images open at a time."""

    window: int
    seconds: float
    """From the first tile's beginning to the last one's end."""
    utilisation: float
    """Share of the workers' time that was spent on tiles."""


class _BatchClock:
    """Time from the first tile's beginning to the last one's end, and the work meanwhile, s."""

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
) -> SharedWorkers:
    """Run the tiles of so many images of one plan on simulated workers.

    window: images that are open at a time; batch: tiles per call of a worker; between: time between
    an image's last tile and its thread's next image, s.
    """
    from orchestrator.ray_backend.executor import RayExecutor

    clock = _BatchClock()
    queue = RunQueue()
    with tempfile.TemporaryDirectory(prefix="gigarestore-bench-") as folder:
        work = _ImageThreads(plan, Path(folder), queue, clock, images, window, between)
        threads = [threading.Thread(target=work, daemon=True) for _ in range(window)]
        for thread in threads:
            thread.start()
        RayExecutor(workers, batch, kind=simulated(device, workers)).serve(queue)
        for thread in threads:
            thread.join()
    return SharedWorkers(
        window=window, seconds=clock.seconds, utilisation=clock.busy / (workers * clock.seconds)
    )


class _ImageThreads:
    """What each of the threads does: take an image, hand its run to the executor, wait for its
    end, until none is left.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        queue: RunQueue,
        clock: _BatchClock,
        images: int,
        threads: int,
        between: float,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._queue = queue
        self._clock = clock
        self._left = list(range(images))
        self._working = threads
        self._between = between
        self._executor = Elsewhere(queue, "ray")

    def __call__(self) -> None:
        while self._left:
            image = self._left.pop(0)
            self._queue.more = bool(self._left)
            self._restore(RunDir(self._folder / str(image)))
            time.sleep(self._between)
        self._working -= 1
        if not self._working:
            self._queue.close()

    def _restore(self, run: RunDir) -> None:
        run.state.mkdir(parents=True)
        log = EventLog(run.events)
        journal = Journal.create(run.journal, {})
        frontier = Frontier(self._plan.graph())
        self._executor.execute(Session(run, self._plan, frontier, journal, [log, self._clock]))
        log.close()


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
) -> list[SharedWorkers]:
    """Measure for each number of open images, print a table, and one JSON line last."""
    plan = grid_plan(rows, cols, order)
    console = Console(highlight=False, soft_wrap=True, width=120)
    alone = simulate(plan.graph(), device, workers, batch)
    console.print(
        f"{images} images of {rows}x{cols} = {rows * cols:,} tiles, order {order}, "
        f"{workers} workers, batches of {batch}, "
        f"{device.per_call:g} s + {device.per_tile:g} s a tile, jitter {device.jitter:.0%}; "
        f"one image alone, simulated: {alone.makespan:.2f} s, busy {alone.utilisation:.0%}"
    )

    results = [measure(plan, images, window, device, workers, batch, between) for window in windows]
    table = Table("open images", "time", "busy", box=None, pad_edge=False)
    for result in results:
        table.add_row(f"{result.window}", f"{result.seconds:.2f}", f"{result.utilisation:.1%}")
    console.print(table)

    document = {
        "bench": "batch",
        "rows": rows,
        "cols": cols,
        "order": order,
        "images": images,
        "workers": workers,
        "batch": batch,
        "device": asdict(device),
        "runs": [asdict(result) for result in results],
    }
    print(json.dumps(document))
    return results
