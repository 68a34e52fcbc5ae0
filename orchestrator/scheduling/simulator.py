"""Simulator: the real frontier and the real dispatcher with workers that only cost time. No Ray, no
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
    run = _SimulatedRun(graph, device, workers, batch, evaluations)
    run.run()
    return Simulation(
        workers=workers,
        batch=batch,
        makespan=run.now,
        busy=run.busy,
        bound=lower_bound(graph, device, workers, batch, evaluations) if bound is None else bound,
        batches=run.batches,
        tiles=graph.count,
    )


class _SimulatedRun:
    """A run whose workers only cost time; times in s from its beginning."""

    def __init__(
        self,
        graph: TaskGraph,
        device: Device,
        workers: int,
        batch: int,
        evaluations: Sequence[int],
    ) -> None:
        self._graph = graph
        self._device = device
        self._evaluations = evaluations
        self._workers = workers
        self._frontier = Frontier(graph)
        self._runs = [Tiles(self._frontier, range(workers))]
        self._dispatcher = Dispatcher[int](batch)
        for worker in range(workers):
            self._dispatcher.join(worker)
        self._free = [0.0] * workers
        """When each worker will have done what it was given."""
        self._driver = 0.0
        """When the driver will have sent what it was to send."""
        self._reports = list[tuple[float, int, int, list[int]]]()
        """A heap: when a report arrives, its number, the worker, its tiles."""
        self.now = 0.0
        self.busy = 0.0
        self.batches = 0

    def run(self) -> None:
        """Run all tiles."""
        self._dispatch()
        while self._reports:
            self._receive()
            self._dispatch()

    def _dispatch(self) -> None:
        while turn := self._dispatcher.turn(self._runs, self._workers):
            _, worker, size = turn
            taken = self._frontier.take_numbers(size)
            self._dispatcher.sent(worker, len(taken))
            evaluations = self._evaluations[self._graph.level(taken[0])]
            cost = self._device.seconds(len(taken), evaluations, taken[0])
            self.busy += cost
            self.batches += 1
            self._driver = max(self._driver, self.now) + self._device.dispatch
            self._free[worker] = max(self._free[worker], self._driver) + cost
            arrival = self._free[worker] + self._device.latency
            heapq.heappush(self._reports, (arrival, self.batches, worker, taken))

    def _receive(self) -> None:
        """Go on to the next report; those that arrive together are acted on together."""
        self.now = self._reports[0][0]
        while self._reports and self._reports[0][0] <= self.now:
            _, _, worker, taken = heapq.heappop(self._reports)
            self._frontier.committed_numbers(taken)
            self._dispatcher.back(worker, len(taken))


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
