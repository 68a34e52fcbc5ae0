"""The command `status`: how far a run, a batch or a submitted run is."""

from __future__ import annotations

import json

from cluster.batches.folder import BatchFolder
from cluster.options import options as opt
from cluster.options.arguments import RunOrOut
from cluster.submission.handles import submitted_as
from cluster.submitted_runs.job_status import print_status
from cluster.terminal.run_status import print_run


def status(
    out: RunOrOut,
    as_json: opt.AsJson = False,
) -> None:
    """Say how far the run at OUT is, also while it runs and after it died."""
    from orchestrator.monitoring.run_progress import read_status

    if (handle := submitted_as(out)) is not None:
        print_status(handle, as_json)
        return

    if BatchFolder(out).exists:
        from cluster.batches.batch_status import print_batch_status

        print_batch_status(out, as_json)
        return
    progress = read_status(out)
    if as_json:
        print(json.dumps(progress))
        return
    print_run(out, progress)
