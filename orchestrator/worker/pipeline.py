"""Pipeline: a worker that reads ahead and writes behind while its device computes. One thread for
each of the three.

A batch is read as soon as it is submitted, computed when its turn comes, one after another, and
reported when all of it is durable. Several runs may share a pipeline. Memory: the batches that were
submitted and are not yet reported, which the driver bounds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from orchestrator.arrays import Array
from orchestrator.tiling.grid import TileKey
from orchestrator.worker.batch_report import Report
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

    def __init__(self) -> None:
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
        """Restore one batch after another and have each tile written when it is there; until
        `close`, or for ever.
        """
        while (batch := self._loaded.get()) is not None:
            batch.began = time.perf_counter()
            try:
                for key, pixels in batch.worker.sampler.restore(batch.load.tiles):
                    self._writer.submit(self._write, batch, key, pixels)
            except Exception as err:  # whatever the network raises: the driver is told
                _refuse(batch.future, err)

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
