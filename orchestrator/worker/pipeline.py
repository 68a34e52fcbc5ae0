"""Pipeline: a worker that reads ahead and writes behind while its device computes. One thread for
each of the three.

A batch is read as soon as it is submitted, computed when its turn comes, and reported when all of
it is durable. `fair`: batches are computed one after another. `continuous`: the tiles of a batch
join those under way at the next boundary between two steps. Several runs may share a pipeline: a
batch of another run begins when those under way have ended. Memory: the batches that were submitted
and are not yet reported, which the driver bounds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue

from orchestrator.arrays import Array
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_report import Report
from orchestrator.worker.inflight import Ended, InflightBatch
from orchestrator.worker.worker import Load, Worker


class _PipelinedBatch:
    """A submitted batch: what is left of it, and who waits for its report."""

    def __init__(self, worker: Worker, load: Load, future: Future[Report]) -> None:
        self.worker = worker
        self.load = load
        self.future = future
        self.left = len(load.keys)
        self.began = time.perf_counter()


class Pipeline:
    """Run batches of one run's worker or of several on one device, several under way at a time."""

    def __init__(self, continuous: int | None = None) -> None:
        """continuous: tiles that may be under way at a time; None for batches one after another."""
        self._continuous = continuous is not None
        self._room = continuous
        self._worker: Worker | None = None
        """Whose tiles are under way."""
        self._flight: InflightBatch | None = None
        self._next: _PipelinedBatch | None = None
        """A batch of another run, which waits for those under way."""
        self._owner: dict[TileKey, _PipelinedBatch] = {}
        self._loaded: SimpleQueue[_PipelinedBatch | None] = SimpleQueue()
        self._reader = ThreadPoolExecutor(1, "reader")
        self._writer = ThreadPoolExecutor(1, "writer")
        self._thread = threading.Thread(target=self._compute, name="compute", daemon=True)
        self._thread.start()

    def submit(self, worker: Worker, keys: Sequence[TileKey]) -> Future[Report]:
        """Restore tiles of one level whose predecessors are committed; the future's error names
        what went wrong.
        """
        future: Future[Report] = Future()
        self._reader.submit(self._read, worker, list(keys), future)
        return future

    def close(self) -> None:
        """End when everything submitted is done."""
        self._reader.shutdown()
        self._loaded.put(None)
        self._thread.join()
        self._writer.shutdown()

    def _read(self, worker: Worker, keys: list[TileKey], future: Future[Report]) -> None:
        try:
            batch = _PipelinedBatch(worker, worker.load(keys), future)
        except Exception as err:
            _refuse(future, err)
            return
        for key, pixels in batch.load.determined.items():
            self._writer.submit(self._write, batch, key, pixels)
        if batch.load.tiles:
            self._loaded.put(batch)

    def _compute(self) -> None:
        """Let batches join, take a step, pass on what has ended; until `close`, or for ever."""
        while (flight := self._join_in()) is not None:
            for ended in flight.step():
                self._end(ended)

    def _join_in(self) -> InflightBatch | None:
        """Let in who may join now and return the flight; wait for somebody when nothing is under
        way. None at the end.
        """
        while not self._flight or self._continuous:
            try:
                batch = self._next or self._loaded.get(block=not self._flight)
            except Empty:
                return self._flight
            if batch is None:
                self._loaded.put(None)  # for the next time, when those under way have ended
                return self._flight or None
            if self._flight and batch.worker is not self._worker:
                self._next = batch
                return self._flight
            self._next = None
            batch.began = time.perf_counter()
            self._board(batch)
        return self._flight

    def _board(self, batch: _PipelinedBatch) -> None:
        if self._flight is None or batch.worker is not self._worker:
            self._worker, self._flight = batch.worker, InflightBatch(batch.worker, self._room)
        self._forget(
            batch.load.tiles
        )  # a batch that failed may still be under way when it comes again
        self._owner |= dict.fromkeys(batch.load.tiles, batch)
        self._flight.add(batch.load.tiles)

    def _end(self, ended: Ended) -> None:
        batch = self._owner.pop(ended.key, None)
        if batch is None:
            return  # a batch fails whole: another of its tiles has
        if ended.error is None:
            self._writer.submit(self._write, batch, ended.key, ended.pixels())
        else:
            self._forget(batch.load.tiles)
            _refuse(batch.future, ended.error)

    def _forget(self, keys: Iterable[TileKey]) -> None:
        left = [key for key in keys if self._owner.pop(key, None) is not None]
        if self._flight is not None:
            self._flight.drop(left)

    def _write(self, batch: _PipelinedBatch, key: TileKey, pixels: Array) -> None:
        """Write a tile and report its batch after the last one: all of it is durable then."""
        try:
            batch.worker.write(key, pixels)
        except Exception as err:
            _refuse(batch.future, err)
            return
        batch.left -= 1
        if not batch.left:
            seconds = time.perf_counter() - batch.began
            batch.future.set_result(batch.worker.report(batch.load, seconds))


def _refuse(future: Future[Report], err: Exception) -> None:
    """Fail a batch by the first of its errors."""
    if not future.done():
        future.set_exception(err)
