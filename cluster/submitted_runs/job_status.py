"""Where a submitted run is, by what its backend and its own files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from cluster.options.exit_codes import UNREACHABLE
from cluster.submission.backend import Unreachable
from cluster.submission.handles import (
    Handle,
    JobState,
    JobStatus,
    SubmissionRecord,
    SubmissionRegistry,
)
from cluster.submitted_runs.backends import backend
from cluster.terminal.run_status import print_run


def look(handle: Handle | None, record: SubmissionRecord | None) -> JobStatus:
    """Return a run's state; one that cannot be asked for is unknown."""
    assert handle is not None
    try:
        return backend(handle.backend).state(handle, record)
    except Unreachable as err:
        return JobStatus(JobState.UNKNOWN, None, str(err))


def print_status(handle: Handle, as_json: bool) -> None:
    """Print what the backend says of a run, and how far it is where its output is seen here."""
    from cluster.batches.batch_status import print_images, read_batch_status
    from cluster.batches.folder import BatchFolder
    from orchestrator.monitoring.run_progress import read_status
    from orchestrator.run_folder import RunDir

    _, record = SubmissionRegistry().find(str(handle))
    status = look(handle, record)
    out = None if record is None else Path(record.output)
    batch = None if out is None or not BatchFolder(out).exists else BatchFolder(out)
    run: dict[str, Any] | None = None
    if batch is not None:
        run = read_batch_status(batch)
    elif out is not None and RunDir(out).job.exists():
        run = read_status(out)
    if as_json:
        known = {} if record is None else record.shown()
        said = {
            "handle": str(handle),
            "state": status.state,
            "code": status.code,
            "reason": status.reason,
            "run": run,
        }
        print(json.dumps(known | said))
        return
    print(f"{handle}: {status.state}{f' ({status.reason})' if status.reason else ''}")
    if batch is not None and run is not None:
        print_images(batch.root, run)
    elif out is not None and run is not None:
        print_run(out, run)
    if status.state is JobState.UNKNOWN and record is None:
        raise typer.Exit(UNREACHABLE)
