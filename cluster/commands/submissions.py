"""The commands that look after submitted runs: logs, cancel, wait, list, config show, and their
part of status and resume.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.options import options as opt
from cluster.submission.backends import UNREACHABLE, Unreachable, backend
from cluster.submission.handles import (
    Handle,
    JobState,
    JobStatus,
    SubmissionRecord,
    SubmissionRegistry,
)
from cluster.submission.settings import keys, load
from cluster.submission.submission import new_run_id
from orchestrator.errors import PlanError

Target = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A handle (slurm:ID, ray:ID@URL, k8s:NAMESPACE/NAME) or OUT."
    ),
]
config = typer.Typer(no_args_is_help=True, help="Settings of submissions.")


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
        raise typer.Exit(_unreachable(err)) from None


def cancel(
    target: Target,
    grace: Annotated[
        float | None, typer.Option(help="Seconds to stop in.", show_default="as submitted")
    ] = None,
) -> None:
    """End a submitted run gently; everything committed is kept, and `resume` goes on."""
    handle, record = SubmissionRegistry().find(target)
    patience = (
        grace if grace is not None else record.settings["submit"]["grace"] if record else 30.0
    )
    try:
        done = backend(handle.backend).cancel(handle, record, patience)
    except Unreachable as err:
        raise typer.Exit(_unreachable(err)) from None
    print(f"gigarestore: {done}", file=sys.stderr)


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
    from cluster.commands.submit import attend

    handle, record = SubmissionRegistry().find(target)
    raise typer.Exit(
        attend(backend(handle.backend), handle, record, follow=follow, patience=timeout)
    )


def list_runs(as_json: opt.AsJson = False) -> None:
    """List the runs that you submitted, the latest first."""
    rows = [(record, _listed(record)) for record in SubmissionRegistry().all()]
    if as_json:
        print(
            json.dumps(
                [
                    {**record.shown(), "state": found.state, "reason": found.reason}
                    for record, found in rows
                ]
            )
        )
        return
    for record, found in rows:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.submitted))
        print(f"{record.handle}  {found.state}  {when}  {record.output}")


@config.command("show")
def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Print the settings: flag over environment over project file over user file over default."""
    loaded = load({}, Path.cwd(), os.environ)
    values = loaded.settings.model_dump(mode="json")
    found = {key: values[key.partition(".")[0]][key.partition(".")[2]] for key in keys()}
    if as_json:
        print(
            json.dumps(
                {
                    k: {"value": v, "origin": loaded.origins.get(k, "default")}
                    for k, v in found.items()
                }
            )
        )
        return
    for key, value in found.items():
        said = f"  # {loaded.origins.get(key, 'default')}" if origin else ""
        print(f"{key} = {'' if value is None else json.dumps(value)}{said}")


def look(handle: Handle | None, record: SubmissionRecord | None) -> JobStatus:
    """Return a run's state; one that cannot be asked for is unknown."""
    assert handle is not None
    try:
        return backend(handle.backend).state(handle, record)
    except Unreachable as err:
        return JobStatus(JobState.UNKNOWN, None, str(err))


def _listed(record: SubmissionRecord) -> JobStatus:
    """Return a run's state for a list, which one run's missing program or token must not spoil."""
    try:
        return look(Handle.parse(record.handle), record)
    except PlanError as err:
        return JobStatus(JobState.UNKNOWN, None, str(err))


def print_status(handle: Handle, as_json: bool) -> None:
    """Print what the backend says of a run, and how far it is where this machine sees its output."""
    from cluster.batches.batch_status import print_images, read_batch_status
    from cluster.batches.folder import BatchFolder
    from cluster.commands.report import print_run
    from orchestrator.monitoring.run_progress import read_status
    from orchestrator.run_folder import RunDir

    _, record = SubmissionRegistry().find(str(handle))
    found = look(handle, record)
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
            "state": found.state,
            "code": found.code,
            "reason": found.reason,
            "run": run,
        }
        print(json.dumps(known | said))
        return
    print(f"{handle}: {found.state}{f' ({found.reason})' if found.reason else ''}")
    if batch is not None and run is not None:
        print_images(batch.root, run)
    elif out is not None and run is not None:
        print_run(out, run)
    if found.state is JobState.UNKNOWN and record is None:
        raise typer.Exit(UNREACHABLE)


def resubmit(handle: Handle) -> int:
    """Submit a run again where it was, to go on with what is at its OUT; return the exit code."""
    from cluster.commands.submit import hand_in

    _, record = SubmissionRegistry().find(str(handle))
    if record is None:
        raise PlanError(
            f"nothing is remembered of {handle}; submit again, or `gigarestore resume OUT` where OUT is"
        )
    if str(handle) != record.handle:
        raise PlanError(
            f"{handle} is one share of {record.handle}; `gigarestore resume {record.handle}` goes on with all"
        )
    chosen = backend(handle.backend)
    if not (found := look(handle, record)).state.ended and found.state is not JobState.UNKNOWN:
        raise PlanError(f"{handle} is still {found.state}; `gigarestore cancel {handle}` ends it")
    return hand_in(chosen, record.submission(new_run_id()), wait=False, follow=False, as_json=False)


def _unreachable(err: Unreachable) -> int:
    print(f"gigarestore: {err}", file=sys.stderr)
    return UNREACHABLE
