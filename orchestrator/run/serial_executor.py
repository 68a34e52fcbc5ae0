"""The reference executor: one worker in this process, one batch after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import RunError
from orchestrator.events import BatchHalved, WorkerStarted
from orchestrator.retry import disk_full
from orchestrator.run.run_queue import Arrival, RunQueue, again
from orchestrator.run.session import Session
from orchestrator.scheduling.batch_policy import CPU_BATCH, GPU_BATCH
from orchestrator.shutdown import Stop
from orchestrator.tiling.grid import TileKey

if TYPE_CHECKING:
    from orchestrator.worker.worker import Worker


class SerialExecutor:
    """Run every tile here and now; the result is what every other executor must reproduce."""

    name = "serial"

    def __init__(self, stop: Stop | None = None) -> None:
        self._stop = stop or Stop()

    def execute(self, session: Session) -> None:
        """Drive the session's frontier to its end.

        Raises RunError when the device is lost, OSError when the disk is full, KeyboardInterrupt
        when asked to stop.
        """
        from orchestrator.worker.worker import Worker

        worker = Worker(session.run_dir.root, session.plan)
        worker.fence = session.fence
        session.emit(WorkerStarted(worker="serial", device=str(worker.sampler.device)))
        with self._stop.draining():
            self._loop(session, worker)

    def serve(self, run_queue: RunQueue) -> None:
        """Execute the sessions that arrive one after another; raises KeyboardInterrupt when asked
        to stop.
        """
        taken: list[Arrival] = []
        try:
            while run_queue.wait():
                taken = run_queue.take()
                for session, ended in taken:
                    try:
                        self.execute(session)
                    except Exception as err:  # this run's own: whoever waits for it is told
                        ended.set_exception(err)
                    else:
                        ended.set_result(None)
        except (
            BaseException
        ) as err:  # also those that were taken and have not had their turn wait to be told
            run_queue.refuse(err)
            for _, ended in taken:
                if not ended.done():
                    ended.set_exception(again(err))
            raise

    def _loop(self, session: Session, worker: Worker) -> None:
        usual = GPU_BATCH if worker.sampler.device.type == "cuda" else CPU_BATCH
        most = session.plan.spec.run.batch or usual
        while keys := session.frontier.take(most):
            if self._stop.requested:
                raise KeyboardInterrupt
            try:
                report = (
                    worker.substitute(keys)
                    if session.frontier.to_fill(keys[0])
                    else worker.run(keys)
                )
            except (ArithmeticError, MemoryError, RuntimeError, ValueError, OSError) as err:
                self._failed(session, keys, err)
            else:
                session.committed_all([("serial", report)])
                if report.limit is not None and report.limit < most:
                    most = report.limit
                    session.emit(BatchHalved(worker="serial", batch=most))

    def _failed(self, session: Session, keys: list[TileKey], error: Exception) -> None:
        from kernels.device_errors import device_lost

        if disk_full(error):
            raise error
        cause = f"{type(error).__name__}: {error}"
        if device_lost(error):
            raise RunError(
                f"the device is lost for this process: {' '.join(cause.split())}"
            ) from error
        session.failed("serial", keys, cause)
