"""The reference executor: one worker in this process, one batch after another."""

from __future__ import annotations

from orchestrator.events import BatchHalved, WorkerStarted
from orchestrator.session import Session


class SerialExecutor:
    """Run every tile here and now; the result is what every other executor must reproduce."""

    name = "serial"

    def execute(self, session: Session) -> None:
        """Drive the session's frontier to its end."""
        from orchestrator.worker import Worker

        worker = Worker(session.run_dir.root, session.plan)
        session.emit(WorkerStarted(worker="serial", device=str(worker.device)))
        most = session.plan.spec.run.batch or 1
        while keys := session.frontier.take(most):
            try:
                report = worker.run(keys)
            except (ArithmeticError, MemoryError, RuntimeError, ValueError, OSError) as err:
                session.failed("serial", keys, f"{type(err).__name__}: {err}")
            else:
                session.committed_all([("serial", report)])
                if report.limit is not None and report.limit < most:
                    most = report.limit
                    session.emit(BatchHalved(worker="serial", batch=most))
