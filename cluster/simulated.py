"""Workers that only let time pass, for measuring the scheduler: what a device would take, give or take a jitter."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.actors import Introduction, introduce
from orchestrator.plan import Plan
from orchestrator.report import Report
from orchestrator.simulate import Device

# Network evaluations of a tile, at whose boundaries others may join.
EVALUATIONS = 10


def per_evaluation(device: Device) -> Device:
    """Return what one of a batch's EVALUATIONS costs."""
    return replace(device, per_call=device.per_call / EVALUATIONS, per_tile=device.per_tile / EVALUATIONS)


class SimulatedWorker:
    """Take the time that devices would; several share a process.

    A device keeps its own time: what it has to do it begins when the last thing ended, however late its process woke.
    """

    def __init__(self, device: Device, slots: int, batch: int, continuous: bool) -> None:
        self._columns: dict[int, int] = {}
        self._free = [0.0] * slots
        self._sleepers = ThreadPoolExecutor(slots)  # a thread wakes within 0.1 ms, an event loop within 1 ms
        self._device = device
        self._steppers = [_Stepper(device, batch, self._sleepers) for _ in range(slots if continuous else 0)]

    async def ready(self) -> Introduction:
        """Return who this is."""
        return introduce("simulated")

    async def open(self, run: int, root: str, plan: Plan) -> None:
        """Take a run's tiles from now on."""
        self._columns[run] = plan.levels[0].grid.cols.count

    async def close(self, run: int) -> None:
        """Forget a run."""
        self._columns.pop(run, None)

    async def run(self, slot: int, run: int, keys: list[list[int]], *after: list[Any]) -> list[Any]:
        """Sleep as long as the batch takes."""
        _, row, col = keys[0]
        number, now = row * self._columns[run] + col, time.perf_counter()
        if self._steppers:
            await self._steppers[slot].run(len(keys), number)
            cost = time.perf_counter() - now
        else:
            cost = self._device.seconds(len(keys), first=number)
            end = self._free[slot] = max(now, self._free[slot]) + cost
            await _sleep_until(end, self._sleepers)
        return Report((), cost, len(keys)).plain()


class _Stepper:
    """A device that tiles join between two evaluations."""

    def __init__(self, device: Device, batch: int, sleepers: ThreadPoolExecutor) -> None:
        self._step = per_evaluation(device)
        self._batch, self._sleepers = batch, sleepers
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self._running: list[_Group] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, tiles: int, first: int) -> None:
        """Return when a group of tiles has had all its evaluations."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tiles, first, ended))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._go())
        await ended

    async def _go(self) -> None:
        end, steps = time.perf_counter(), 0
        while self._waiting or self._running:
            busy = sum(group.tiles for group in self._running)
            while self._waiting and (not busy or busy + self._waiting[0][0] <= self._batch):
                tiles, first, ended = self._waiting.popleft()
                self._running.append(_Group(tiles, first, ended))
                busy += tiles
            end += self._step.seconds(busy, first=self._running[0].first + steps)
            steps += 1
            await _sleep_until(end, self._sleepers)
            for group in self._running:
                group.left -= 1
                if not group.left:
                    group.ended.set_result(None)
            self._running = [group for group in self._running if group.left]


@dataclass(slots=True)
class _Group:
    """Tiles that joined together."""

    tiles: int
    first: int
    ended: asyncio.Future[None]
    left: int = EVALUATIONS


async def _sleep_until(end: float, sleepers: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(sleepers, lambda: time.sleep(max(end - time.perf_counter(), 0.0)))
