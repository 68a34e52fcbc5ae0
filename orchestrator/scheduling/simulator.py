"""Simulator: the real frontier and the real crew with workers that only cost time. No Ray, no
clock.

It predicts a plan's makespan for any number of workers, and is the ideal that measured runs are
held against: what remains between the two is overhead.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.scheduling.dispatcher import Dispatcher, Tiles
from orchestrator.scheduling.frontier import Frontier
from orchestrator.tiling.parallelism import critical_path
from orchestrator.tiling.task_graph import TaskGraph

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a batch costs on one worker: evaluations x (per_call + per_tile x tiles) seconds, give
    or take `jitter`.
    """

    per_call: float
    """Seconds per network evaluation, whatever the batch."""
    per_tile: float
    """Seconds per network evaluation and tile."""
    jitter: float = 0.0
    """Greatest relative deviation of a batch's time; deviations are uniform and depend on the seed
    and the tile.
    """
    latency: float = 0.0
    """Seconds between a batch's end and the beginning of what it releases; a second batch in hand
    is begun meanwhile.
    """
    dispatch: float = 0.0
    """Seconds that the driver spends on each batch, on one after another."""
    seed: int = 0

    def seconds(self, tiles: int, evaluations: int = 1, first: int = 0) -> float:
        """Return the time of a batch whose first tile is number `first`."""
        exact = evaluations * (self.per_call + self.per_tile * tiles)
        return (
            exact * (1 + self.jitter * (2 * _uniform(self.seed, first) - 1))
            if self.jitter
            else exact
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What a simulated run took, seconds."""

    workers: int
    batch: int
    makespan: float
    busy: float
    """Worker seconds spent on tiles."""
    bound: float
    """No schedule is faster: the work at full batches shared by all workers, or the longest chain
    at batches of one.
    """
    batches: int
    tiles: int

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that was spent on tiles."""
        return self.busy / (self.workers * self.makespan)

    @property
    def efficiency(self) -> float:
        """Lower bound / makespan."""
        return self.bound / self.makespan


def simulate(
    graph: TaskGraph,
    device: Device,
    workers: int,
    batch: int,
    evaluations: Sequence[int] | None = None,
    bound: float | None = None,
) -> Simulation:
    """Run all tiles in batches, each begun and ended together.

    evaluations: per level the network evaluations of a tile (default 1); bound: lower_bound(), when
    it is known.
    """
    evaluations = evaluations or [1] * len(graph.grids)
    frontier = Frontier(graph)
    crew = Dispatcher[int](batch)
    free = [0.0] * workers
    runs = [Tiles(frontier, range(workers))]
    for worker in range(workers):
        crew.join(worker)
    events = list[tuple[float, int, int, list[int]]]()
    now = 0.0
    busy = 0.0
    batches = 0
    driver = 0.0
    while True:
        while turn := crew.turn(runs, workers):
            _, worker, size = turn
            taken = frontier.take_numbers(size)
            crew.sent(worker, len(taken))
            cost = device.seconds(len(taken), evaluations[graph.level(taken[0])], taken[0])
            busy = busy + cost
            batches = batches + 1
            driver = max(driver, now) + device.dispatch
            free[worker] = max(free[worker], driver) + cost
            heapq.heappush(events, (free[worker] + device.latency, batches, worker, taken))
        if not events:
            break
        now = events[0][0]
        while events and events[0][0] <= now:  # reports that arrive together are acted on together
            _, _, worker, taken = heapq.heappop(events)
            frontier.committed_numbers(taken)
            crew.back(worker, len(taken))
    return Simulation(
        workers=workers,
        batch=batch,
        makespan=now,
        busy=busy,
        bound=lower_bound(graph, device, workers, batch, evaluations) if bound is None else bound,
        batches=batches,
        tiles=graph.count,
    )


def lower_bound(
    graph: TaskGraph, device: Device, workers: int, batch: int, evaluations: Sequence[int]
) -> float:
    """Return the seconds that no schedule beats, jitter and latency aside."""
    total = sum(grid.count * calls for grid, calls in zip(graph.grids, evaluations, strict=True))
    work = total * (device.per_call / batch + device.per_tile) / workers
    return max(work, critical_path(graph.grids, evaluations) * (device.per_call + device.per_tile))


def _uniform(seed: int, number: int) -> float:
    """Return a number in [0, 1) that depends on both arguments alone (splitmix64)."""
    z = (seed * 0xD1342543DE82EF95 + number * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) / 2**64
