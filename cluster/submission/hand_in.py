"""Hand a submission in, remember it, and wait for its end."""

from __future__ import annotations

import contextlib
import json
import sys
import time

from cluster.options.exit_codes import (
    INTERRUPTED,
    TIMED_OUT,
    UNREACHABLE,
    complain,
)
from cluster.submission.backend import Backend, Unreachable
from cluster.submission.handles import (
    Handle,
    JobState,
    JobStatus,
    SubmissionRecord,
    SubmissionRegistry,
)
from cluster.submission.submission import Submission

POLL = 2.0
# How long a scheduler may not answer while it is waited for, seconds.
RETRY_SECONDS = 600.0


def hand_in(
    chosen: Backend,
    submission: Submission,
    *,
    check: bool = False,
    wait: bool,
    follow: bool,
    as_json: bool,
) -> int:
    """Submit, remember, print the handle; return the exit code."""
    try:
        if check:
            complain(chosen.check(submission))
            return 0
        handle = chosen.submit(submission)
    except Unreachable as err:
        complain(str(err))
        return UNREACHABLE
    record = SubmissionRecord(
        handle=str(handle),
        run_id=submission.run_id,
        name=submission.name,
        output=submission.output,
        directory=submission.directory,
        arguments=list(submission.arguments),
        settings=submission.settings.model_dump(mode="json"),
        code=submission.code,
        submitted=time.time(),
        earlier=list(submission.earlier),
    )
    print(
        json.dumps({**record.shown(), "folder": submission.folder}) if as_json else handle,
        flush=True,
    )
    try:
        SubmissionRegistry().keep(record)
    except OSError as err:  # the job is queued all the same
        complain(
            f"warning: {handle} cannot be remembered here ({err}), so `list` and `resume "
            f"{handle}` do not know it"
        )
    complain(f"submitted; look with: gigarestore status {handle}")
    return attend(chosen, handle, record, follow=follow) if wait or follow else 0


def attend(
    chosen: Backend,
    handle: Handle,
    record: SubmissionRecord | None,
    *,
    follow: bool,
    timeout: float | None = None,
) -> int:
    """Wait for a run's end, with its log or without; return its driver's exit code, 124 when the
    timeout, in seconds, is over.
    """
    deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
    try:
        if follow:
            _print_log(chosen, handle, record)
        status = _await_end(chosen, handle, record, deadline)
    except Unreachable as err:
        complain(str(err))
        return UNREACHABLE
    except KeyboardInterrupt:
        complain(f"detached, the run goes on; look with: gigarestore status {handle}")
        return INTERRUPTED

    if status is None:
        complain(f"{handle} has not ended within {timeout:.0f} s; it goes on")
        return TIMED_OUT
    code = "" if status.code is None else f", exit code {status.code}"
    reason = f", {status.reason}" if status.reason else ""
    complain(f"{handle}: {status.state}{code}{reason}")
    if status.exit_code and status.state is not JobState.FAILED:
        complain(f"everything committed is kept, go on with: gigarestore resume {handle}")
    return status.exit_code


def _print_log(chosen: Backend, handle: Handle, record: SubmissionRecord | None) -> None:
    """Print the log as it grows; where it breaks off, whether the run has ended is asked next."""
    with contextlib.suppress(Unreachable):
        for piece in chosen.logs(handle, record, follow=True):
            sys.stderr.write(piece)
            sys.stderr.flush()


def _await_end(
    chosen: Backend, handle: Handle, record: SubmissionRecord | None, deadline: float
) -> JobStatus | None:
    """Return how a run ended, None when it had not by the deadline.

    A scheduler that does not answer is asked again; raises Unreachable once it has been silent for
    RETRY_SECONDS, or until the deadline.
    """
    heard = time.monotonic()
    while True:
        try:
            status = chosen.state(handle, record)
        except Unreachable as err:
            silent = time.monotonic() - heard
            if time.monotonic() > min(deadline, heard + RETRY_SECONDS):
                raise Unreachable(
                    f"{err}; nothing was heard of {handle} for {silent:.0f} s"
                ) from err
        else:
            heard = time.monotonic()
            if status.state.ended:
                return status
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL)
