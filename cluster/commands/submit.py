"""`gigarestore submit`: check a restoration as `restore` would, or a batch
(cluster.commands.submit_batch), and hand it to a cluster.

stdout carries the handle alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.commands.submit_arguments import (
    check_printable,
    check_where,
    is_elsewhere,
    parse_restore,
    with_output,
)
from cluster.submission.hand_in import hand_in
from cluster.submission.setting_options import given_settings, takes_settings
from cluster.submission.settings import Loaded, load
from cluster.submission.submission import BATCH, Submission, code_folder, new_run_id
from cluster.submitted_runs.backends import backend
from orchestrator.errors import PlanError
from orchestrator.run_folder import RunDir, check_output

# The options of restore and batch are theirs to read: cluster.commands.submit_arguments.
CONTEXT = {"ignore_unknown_options": True, "allow_extra_args": True}


@takes_settings
def submit(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[batch] IN OUT [OPTIONS]",
            help="As for `gigarestore restore`; behind the word batch as for `gigarestore batch`.",
        ),
    ],
    *,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the complete script or manifest; touch nothing."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Ask the scheduler whether it would take it; submit nothing."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it has ended, with its exit code.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="The same, with its log; Ctrl-C detaches.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of the handle.")
    ] = False,
    **given: Any,
) -> None:
    """Restore IN into OUT, or a batch of images, on a cluster: SLURM, Ray or Kubernetes.

    Prints the run's handle.
    """
    loaded = load(given_settings(given), Path.cwd(), os.environ)
    submission = make_submission(arguments, loaded)
    chosen = backend(str(loaded.settings.submit.backend))

    if dry_run:
        print(chosen.render(submission), end="")
        return
    raise typer.Exit(
        hand_in(chosen, submission, check=check, wait=wait, follow=follow, as_json=as_json)
    )


def make_submission(arguments: list[str], loaded: Loaded) -> Submission:
    """Return the submission of arguments; raises PlanError on what `restore` or `batch` itself
    would refuse.
    """
    settings = loaded.settings
    if settings.submit.backend is None:
        raise PlanError(
            "no backend named; give --backend slurm, ray or kuberay, or set submit.backend "
            "(`config show`)"
        )
    if arguments[0] == BATCH:
        from cluster.commands.submit_batch import batch_submission

        return batch_submission(arguments[1:], loaded)
    if loaded.origins.get("slurm.shares") == "flag":
        raise PlanError("--shares is for a batch: gigarestore submit batch IMAGES OUTDIR")
    spec, overwrite = parse_restore(arguments)
    check_where(spec.run.executor, spec.run.address)
    if spec.output is None:
        raise PlanError("no output named; usage: gigarestore submit IN OUT [options of restore]")
    if not is_elsewhere(spec.input.path, str(settings.submit.backend)):
        from orchestrator.planning.resolve import plan_job

        plan_job(spec)
    output = spec.output
    if settings.submit.backend == "kuberay":
        from cluster.submission.kuberay.rayjob_manifest import check_places

        places = [("IN", spec.input.path), ("OUT", output), ("--mask", spec.input.mask)]
        check_places(places, settings.kuberay)
    if "://" not in output:
        output = os.path.abspath(output)
        check_output(RunDir(Path(output)), overwrite)
    check_printable(output)
    wanted = spec.model_copy(update={"output": output})
    return Submission(
        run_id=new_run_id(),
        arguments=tuple(
            with_output(arguments, output, lambda words: parse_restore(words)[0] == wanted)
        ),
        output=output,
        directory=os.getcwd(),
        settings=settings,
        code=code_folder(),
    )
