"""HealthChecks: what a driver looks after now and then: hung workers, a silent cluster, a later
attempt.
"""

from __future__ import annotations

import time
from typing import Any

from orchestrator.ray_backend.actor_pool import Member
from orchestrator.ray_backend.answer_handler import AnswerHandler
from orchestrator.ray_backend.driver_state import DriverState

# How often deadlines, signals and the cluster are looked at, seconds.
TICK_SECONDS = 0.5
# A longer pause between two looks means that this process stood still (stopped, suspended, waiting
# for a disk): then what it waits for is not late, seconds.
STILL_SECONDS = 5.0


class HealthChecks:
    """Look every TICK_SECONDS at most; workers that are given up are dealt with as dead."""

    def __init__(self, state: DriverState, answers: AnswerHandler) -> None:
        self._state = state
        self._answers = answers
        self._looked = time.monotonic()

    def tick(self) -> None:
        """Look, if it is time to.

        Raises RunError when the cluster has been silent for too long.
        """
        now = time.monotonic()
        since = now - self._looked
        if since < TICK_SECONDS:
            return
        self._looked = now
        for run in self._state.registry.runs:
            run.flush()
        if since > STILL_SECONDS:
            self._credit(since)
            return
        self._check_attempts()
        self._state.cluster.check()
        self._drop_given_up()
        self._drop_late_openings(now)
        self._check_takers()
        self._drop_overdue(now)

    def _credit(self, seconds: float) -> None:
        """Give everybody the time that this process stood still."""
        state = self._state
        state.cluster.credit(seconds)
        for call in state.inflight.values():
            call.began += seconds
        for worker in state.dispatcher:
            worker.heard += seconds
        state.registry.credit(seconds)

    def _check_attempts(self) -> None:
        """End the runs that a later attempt has taken over."""
        registry = self._state.registry
        for run in list(registry.runs):
            with registry.concerning(run):
                run.session.check_attempt()

    def _drop_given_up(self) -> None:
        """Drop the workers whose machines the cluster has given up.

        No call tells of a worker that had nothing to do, and none would take its place when its
        machine is back.
        """
        state = self._state
        for worker in list(state.dispatcher):
            if state.cluster.given_up(worker.node):
                self._answers.died(worker, [], "the cluster has given it up")

    def _drop_late_openings(self, now: float) -> None:
        for worker in self._state.registry.late(now):
            cause = "it did not get ready for a run in time"
            self._answers.died(worker, [], cause, kill=True)

    def _check_takers(self) -> None:
        pool = self._state.pool
        more = bool(pool.joining) or pool.live < pool.target
        self._state.registry.check_takers(more=more)

    def _drop_overdue(self, now: float) -> None:
        """Drop a worker whose batch is overdue; others, if there are any, at the next look."""
        inflight = self._state.inflight
        firsts: dict[Member, Any] = {}
        for ref, call in inflight.items():  # what waits behind another batch is not late
            firsts.setdefault(call.worker, ref)
        late = next((ref for ref in firsts.values() if inflight[ref].overdue(now)), None)
        if late is None:
            return
        call = inflight.pop(late)
        usual = call.run.deadlines.usual(call.keys[0].level, len(call.keys))
        known = "" if usual is None else f", usually {usual:.1f} s"
        cause = f"no report for {call.silence(now):.0f} s{known}"
        self._answers.died(call.worker, [call], cause, kill=True)
