"""The commands that look after submitted runs: logs, cancel, wait, list, config show, and their
part of status and resume.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from cluster.options import options as opt
from cluster.options.exit_codes import UNREACHABLE, complain, fail
from cluster.submission.backend import Unreachable
from cluster.submission.hand_in import attend
from cluster.submission.handles import (
    Handle,
    JobState,
    JobStatus,
    SubmissionRecord,
    SubmissionRegistry,
)
from cluster.submitted_runs.backends import backend
from cluster.submitted_runs.job_status import look
from orchestrator.errors import PlanError

# Of a run of which nothing is remembered here, seconds.
USUAL_GRACE = 30.0

Target = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A handle (slurm:ID, ray:ID@URL, k8s:NAMESPACE/NAME) or OUT."
    ),
]


def logs(
    target: Target,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until it ends; Ctrl-C leaves it running.")
    ] = False,
) -> None:
    """Print the log of a submitted run."""
    handle, record = SubmissionRegistry().find(target)
    try:
        for piece in backend(handle.backend).logs(handle, record, follow):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except Unreachable as err:
        fail(str(err), UNREACHABLE)


def cancel(
    target: Target,
    grace: Annotated[
        float | None, typer.Option(help="Seconds to stop in.", show_default="as submitted")
    ] = None,
) -> None:
    """End a submitted run gently; everything committed is kept, and `resume` goes on."""
    handle, record = SubmissionRegistry().find(target)
    if grace is None:
        grace = USUAL_GRACE if record is None else record.settings["submit"]["grace"]
    try:
        done = backend(handle.backend).cancel(handle, record, grace)
    except Unreachable as err:
        fail(str(err), UNREACHABLE)
    complain(done)


def wait(
    target: Target,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait.", show_default="for ever")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="With its log.")] = False,
) -> None:
    """Wait for a submitted run and exit with its driver's code (75: stopped, resumable; 124:
    --timeout; 130: Ctrl-C).
    """
    handle, record = SubmissionRegistry().find(target)
    raise typer.Exit(
        attend(backend(handle.backend), handle, record, follow=follow, timeout=timeout)
    )


def list_runs(as_json: opt.AsJson = False) -> None:
    """List the runs that you submitted, the latest first."""
    rows = [(record, _listed(record)) for record in SubmissionRegistry().all()]
    if as_json:
        document = [
            {**record.shown(), "state": status.state, "reason": status.reason}
            for record, status in rows
        ]
        print(json.dumps(document))
        return
    for record, status in rows:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.submitted))
        print(f"{record.handle}  {status.state}  {when}  {record.output}")


def _listed(record: SubmissionRecord) -> JobStatus:
    """Return a run's state for a list, which one run's missing program or token must not spoil."""
    try:
        return look(Handle.parse(record.handle), record)
    except PlanError as err:
        return JobStatus(JobState.UNKNOWN, None, str(err))
