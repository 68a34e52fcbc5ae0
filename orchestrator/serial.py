"""The reference executor: one worker in this process, one batch after another."""

from __future__ import annotations

from orchestrator.events import WorkerStarted
from orchestrator.session import Session


class SerialExecutor:
    """Run every tile here and now; the result is what every other executor must reproduce."""

    name = "serial"

    def execute(self, session: Session) -> None:
        """Drive the session's frontier to its end."""
        from orchestrator.worker import Worker

        worker = Worker(session.run_dir.root, session.plan)
        session.emit(WorkerStarted(worker="serial", device=str(worker.device)))
        while keys := session.frontier.take(session.plan.spec.run.batch or 1):
            try:
                report = worker.run(keys)
            except (ArithmeticError, MemoryError, RuntimeError, ValueError, OSError) as err:
                session.failed("serial", keys, f"{type(err).__name__}: {err}")
            else:
                session.committed("serial", report.keys, report.seconds, report.nfe, report.filled)
