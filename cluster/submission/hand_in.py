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
from cluster.submission.handles import Handle, JobState, SubmissionRecord, SubmissionRegistry
from cluster.submission.submission import Submission

POLL = 2.0
# How long a scheduler may not answer while it is waited for, seconds.
PATIENCE = 600.0


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
    patience: float | None = None,
) -> int:
    """Wait for a run's end, with its log or without; return its driver's exit code, 124 when
    patience ran out.
    """
    heard = time.monotonic()
    deadline = heard + (float("inf") if patience is None else patience)
    try:
        if follow:
            with contextlib.suppress(Unreachable):  # whether the run has ended is asked below
                for piece in chosen.logs(handle, record, follow=True):
                    sys.stderr.write(piece)
                    sys.stderr.flush()
        while True:
            try:
                found = chosen.state(handle, record)
            except Unreachable as err:
                if time.monotonic() > min(deadline, heard + PATIENCE):
                    complain(
                        f"{err}; nothing was heard of {handle} for {time.monotonic() - heard:.0f} s"
                    )
                    return UNREACHABLE
            else:
                heard = time.monotonic()
                if found.state.ended:
                    code = "" if found.code is None else f", exit code {found.code}"
                    complain(
                        f"{handle}: "
                        f"{found.state}{code}{f', {found.reason}' if found.reason else ''}"
                    )
                    if found.exit_code and found.state is not JobState.FAILED:
                        complain(
                            f"everything committed is kept, go on with: gigarestore resume {handle}"
                        )
                    return found.exit_code
            if time.monotonic() > deadline:
                complain(f"{handle} has not ended within {patience:.0f} s; it goes on")
                return TIMED_OUT
            time.sleep(POLL)
    except KeyboardInterrupt:
        complain(f"detached, the run goes on; look with: gigarestore status {handle}")
        return INTERRUPTED
