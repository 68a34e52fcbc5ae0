"""AnswerHandler: what a driver does when a remote call has ended, well or badly.

Workers that are ready join, reports are taken in, errors go to the run that they concern, and a
death puts a worker's batches back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ray.exceptions import RayError, RayTaskError

from orchestrator.errors import WorkerBroken
from orchestrator.events import BatchHalved
from orchestrator.ray_backend.actor_pool import Member
from orchestrator.ray_backend.connection import first_line
from orchestrator.ray_backend.driver_state import DriverState, InflightCall
from orchestrator.ray_backend.event_queue import Result
from orchestrator.retry import disk_full
from orchestrator.worker.batch_report import Report


class AnswerHandler:
    """Act on the results of remote calls."""

    def __init__(self, state: DriverState) -> None:
        self._state = state

    def take(self, result: Result) -> tuple[InflightCall, Report] | None:
        """Act on a result; return the report of a batch that was restored, if it is one."""
        state = self._state
        if result.ref in state.pool.joining:
            self._joined(result)
        elif result.ref in state.registry.opening:
            self._opened(result)
        elif (call := state.inflight.pop(result.ref, None)) is not None:
            report = self._reported(call, result)
            return None if report is None else (call, report)
        return None

    def died(
        self, worker: Member, calls: Sequence[InflightCall], cause: str, *, kill: bool = False
    ) -> None:
        """Act on a worker's death: all its batches have failed, or have been taken from it with its
        machine.

        calls: batches of its that are not in flight any more. kill: it lives, and must not.
        """
        state = self._state
        gone = state.cluster.lost(worker.node)
        under_way = [*calls, *self._taken_from(worker)]
        for call in under_way:
            if not call.run.over:
                self._put_back(call, cause, gone=gone)
        if not gone:
            self._blame_opening(worker, cause, beside=bool(under_way))
        for lost in [member for member in state.dispatcher if member.handle is worker.handle]:
            state.dispatcher.leave(lost)
            state.pool.lost(lost, cause, kill=kill, gone=gone)
            state.registry.leave(lost)

    def _joined(self, result: Result) -> None:
        worker = self._state.pool.joined(result.ref, result.answer)
        if worker is not None:
            self._state.dispatcher.join(worker)
            self._state.registry.join(worker)

    def _opened(self, result: Result) -> None:
        """Count on a worker for a run, or note that it cannot take it."""
        state = self._state
        worker = state.registry.opening[result.ref].worker
        try:
            result.answer.result()
        except RayTaskError as err:
            error = err.cause or err
            if isinstance(error, WorkerBroken):
                self.died(worker, [], first_line(error), kill=True)
            else:
                more = bool(state.pool.joining)
                state.registry.refused(result.ref, first_line(error), more=more)
        except RayError as err:
            self.died(worker, [], first_line(err))
        else:
            state.pool.proven = True
            state.registry.opened(result.ref)

    def _reported(self, call: InflightCall, result: Result) -> Report | None:
        """Return a worker's report; None when it has none, because it failed or died, or nobody
        waits for it.
        """
        worker = call.worker
        worker.heard = time.monotonic()
        self._state.dispatcher.back(worker, len(call.keys))
        try:
            report = Report.of(call.keys, result.answer.result())
        except RayTaskError as err:
            self._failed(call, err.cause or err)
            return None
        except RayError as err:
            self.died(worker, [call], first_line(err))
            return None
        self._state.pool.progress()
        limit = report.limit
        news = limit is not None and self._state.dispatcher.limit(worker, limit)
        if call.run.over:
            return None
        self._learn(call, report, result)
        if news and limit is not None:
            call.run.session.emit(BatchHalved(worker=worker.name, batch=limit))
        return report

    def _learn(self, call: InflightCall, report: Report, result: Result) -> None:
        """Remember how long a batch took, and the reference for what waits for it."""
        run = call.run
        self._state.dispatcher.done(run, report.keys)
        if report.nfe:
            seconds = time.monotonic() - call.began
            run.deadlines.ended(report.keys[0].level, len(report.keys), seconds)
        run.refs.keep(run.frontier.graph, report.keys, result.ref)

    def _failed(self, call: InflightCall, error: BaseException) -> None:
        """Act on an error that a worker reported: it lives, but a broken one is not used again."""
        if isinstance(error, WorkerBroken):
            self.died(call.worker, [call], first_line(error), kill=True)
            return
        if call.run.over:
            return
        with self._state.registry.concerning(call.run):
            if disk_full(error):
                raise error
            self._state.dispatcher.failed(call.run, call.worker, call.keys)
            if call.run.session.failed(call.worker.name, call.keys, first_line(error)):
                self._state.pool.progress()

    def _taken_from(self, worker: Member) -> list[InflightCall]:
        """Return the batches that are under way in a worker's process, which are no longer."""
        inflight = self._state.inflight
        refs = [ref for ref, call in inflight.items() if call.worker.handle is worker.handle]
        return [inflight.pop(ref) for ref in refs]

    def _put_back(self, call: InflightCall, cause: str, *, gone: bool) -> None:
        """Have others restore a batch; its tiles are not to blame when the machine is gone."""
        name = call.worker.name
        session = call.run.session
        with self._state.registry.concerning(call.run):
            if gone:
                session.returned(name, call.keys, f"its machine is gone: {cause}")
            elif session.failed(name, call.keys, f"worker died: {cause}"):
                self._state.pool.progress()

    def _blame_opening(self, worker: Member, cause: str, *, beside: bool) -> None:
        """Count a death at the run that the worker was getting ready for, if it was."""
        state = self._state
        if state.registry.blame(worker, cause, state.pool.live, beside=beside):
            state.pool.progress()
