"""Submit a run again where it was, to go on with what is there."""

from __future__ import annotations

from cluster.submission.hand_in import hand_in
from cluster.submission.handles import (
    Handle,
    JobState,
    SubmissionRegistry,
)
from cluster.submission.submission import new_run_id
from cluster.submitted_runs.backends import backend
from cluster.submitted_runs.job_status import look
from orchestrator.errors import PlanError


def resubmit(handle: Handle) -> int:
    """Submit a run again where it was, to go on with what is at its OUT; return the exit code."""
    _, record = SubmissionRegistry().find(str(handle))
    if record is None:
        raise PlanError(
            f"nothing is remembered of {handle}; submit again, or `gigarestore resume OUT` where "
            "OUT is"
        )
    if str(handle) != record.handle:
        raise PlanError(
            f"{handle} is one share of {record.handle}; `gigarestore resume {record.handle}` goes "
            "on with all"
        )
    chosen = backend(handle.backend)
    if not (status := look(handle, record)).state.ended and status.state is not JobState.UNKNOWN:
        raise PlanError(f"{handle} is still {status.state}; `gigarestore cancel {handle}` ends it")
    return hand_in(chosen, record.submission(new_run_id()), wait=False, follow=False, as_json=False)
