"""`gigarestore submit`: check a restoration as `restore` would, or a batch
(cluster.commands.submit_batch), and hand it to a cluster.

stdout carries the handle alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.options import options as opt
from cluster.submission.backends import UNREACHABLE, Backend, Unreachable, backend
from cluster.submission.handles import Handle, JobState, SubmissionRecord, SubmissionRegistry
from cluster.submission.settings import Loaded, load
from cluster.submission.submission import BATCH, Submission, code_folder, new_run_id
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.run_folder import RunDir, check_output

POLL = 2.0
# How long a scheduler may not answer while it is waited for, seconds.
PATIENCE = 600.0
TIMED_OUT = 124
DETACHED = 130
CONTEXT = {"ignore_unknown_options": True, "allow_extra_args": True}

Text = str | None
Texts = list[str] | None


def _option(*names: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, show_default=False)


def submit(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[batch] IN OUT [OPTIONS]",
            help="As for `gigarestore restore`; behind the word batch as for `gigarestore batch`.",
        ),
    ],
    backend_name: Annotated[
        Text, _option("--backend", text="slurm, ray (Jobs API) or kuberay.")
    ] = None,
    dry_run: Annotated[
        bool, _option("--dry-run", text="Print the complete script or manifest; touch nothing.")
    ] = False,
    check: Annotated[
        bool, _option("--check", text="Ask the scheduler whether it would take it; submit nothing.")
    ] = False,
    wait: Annotated[
        bool, _option("--wait", text="Return when it has ended, with its exit code.")
    ] = False,
    follow: Annotated[
        bool, _option("--follow", text="The same, with its log; Ctrl-C detaches.")
    ] = False,
    as_json: Annotated[
        bool, _option("--json", text="Print one JSON document instead of the handle.")
    ] = False,
    name: Annotated[Text, _option("--name", text="Name in the queue [after OUT].")] = None,
    nodes: Annotated[int | None, _option("--nodes", text="Nodes [1].")] = None,
    min_nodes: Annotated[
        int | None, _option("--min-nodes", text="Nodes that are enough to begin [all].")
    ] = None,
    cpus: Annotated[int | None, _option("--cpus", text="Cores per node [4].")] = None,
    gpus: Annotated[int | None, _option("--gpus", text="GPUs per node [0].")] = None,
    memory: Annotated[Text, _option("--memory", text="Memory per node [16G].")] = None,
    time_limit: Annotated[
        Text, _option("--time", text="Limit of one attempt: minutes or D-HH:MM:SS [24 h].")
    ] = None,
    env: Annotated[Texts, _option("--env", text="NAME=VALUE for the job; may be repeated.")] = None,
    setup: Annotated[
        Texts, _option("--setup", text="slurm: shell line to run first; may be repeated.")
    ] = None,
    python: Annotated[Text, _option("--python", text="Python on the nodes.")] = None,
    on_node_fail: Annotated[
        Text, _option("--on-node-fail", text="slurm: continue or requeue [continue].")
    ] = None,
    restarts: Annotated[
        int | None, _option("--restarts", text="How often it may begin again [10].")
    ] = None,
    grace: Annotated[
        int | None, _option("--grace", text="Seconds to stop in before the limit [180].")
    ] = None,
    partition: Annotated[Text, _option("--partition", text="slurm: partition.")] = None,
    account: Annotated[Text, _option("--account", text="slurm: account.")] = None,
    qos: Annotated[Text, _option("--qos", text="slurm: quality of service.")] = None,
    constraint: Annotated[Text, _option("--constraint", text="slurm: node features.")] = None,
    reservation: Annotated[Text, _option("--reservation", text="slurm: reservation.")] = None,
    shares: Annotated[
        int | None,
        _option(
            "--shares", text="slurm: tasks of an array, each with its share of a batch [one job]."
        ),
    ] = None,
    sbatch: Annotated[
        Texts, _option("--sbatch-option", text="slurm: --name=value for sbatch; may be repeated.")
    ] = None,
    dashboard: Annotated[
        Text, _option("--dashboard", text="ray: address, http://HOST:8265.")
    ] = None,
    token_file: Annotated[
        Text, _option("--token-file", text="ray: file with the cluster's token.")
    ] = None,
    ship: Annotated[
        bool | None,
        typer.Option("--ship/--no-ship", help="ray: send this version's code along [yes]."),
    ] = None,
    namespace: Annotated[Text, _option("--namespace", text="kuberay: namespace [default].")] = None,
    image: Annotated[Text, _option("--image", text="kuberay: image with gigarestore.")] = None,
    service_account: Annotated[
        Text, _option("--service-account", text="kuberay: service account.")
    ] = None,
    claims: Annotated[
        Texts, _option("--claim", text="kuberay: CLAIM:/MOUNT; may be repeated.")
    ] = None,
    secrets: Annotated[
        Texts, _option("--secret", text="kuberay: NAME=SECRET:KEY; may be repeated.")
    ] = None,
    copy_to: Annotated[
        Text, _option("--copy-to", text="kuberay: URL for the finished image, s3://...")
    ] = None,
    queue: Annotated[Text, _option("--queue", text="kuberay: Kueue's local queue.")] = None,
    tolerations: Annotated[
        Texts, _option("--toleration", text="kuberay: KEY[=VALUE][:EFFECT]; may repeat.")
    ] = None,
    node_selector: Annotated[
        Texts, _option("--node-selector", text="kuberay: KEY=VALUE; may be repeated.")
    ] = None,
    ray_version: Annotated[
        Text, _option("--ray-version", text="kuberay: Ray's version in the image.")
    ] = None,
) -> None:
    """Restore IN into OUT, or a batch of images, on a cluster: SLURM, Ray or Kubernetes. Prints the
    run's handle.
    """
    flags = {
        "submit.backend": backend_name,
        "submit.name": name,
        "submit.nodes": nodes,
        "submit.min_nodes": min_nodes,
        "submit.cpus": cpus,
        "submit.gpus": gpus,
        "submit.memory": memory,
        "submit.time": time_limit,
        "submit.env": env,
        "submit.setup": setup,
        "submit.python": python,
        "submit.on_node_fail": on_node_fail,
        "submit.restarts": restarts,
        "submit.grace": grace,
        "slurm.partition": partition,
        "slurm.account": account,
        "slurm.qos": qos,
        "slurm.constraint": constraint,
        "slurm.reservation": reservation,
        "slurm.shares": shares,
        "slurm.options": sbatch,
        "ray.dashboard": dashboard,
        "ray.token_file": token_file,
        "ray.ship": ship,
        "kuberay.namespace": namespace,
        "kuberay.image": image,
        "kuberay.service_account": service_account,
        "kuberay.claims": claims,
        "kuberay.secrets": secrets,
        "kuberay.copy_to": copy_to,
        "kuberay.queue": queue,
        "kuberay.tolerations": tolerations,
        "kuberay.node_selector": node_selector,
        "kuberay.ray_version": ray_version,
    }
    loaded = load(flags, Path.cwd(), os.environ)
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
            "no backend named; give --backend slurm, ray or kuberay, or set submit.backend (`config show`)"
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


def is_elsewhere(path: str | None, backend_name: str) -> bool:
    """Tell whether IN is a file on the cluster alone: then it is planned there."""
    if backend_name == "slurm" or (path and Path(path).exists()):
        return False
    return backend_name == "kuberay" or (path is not None and Path(path).is_absolute())


def with_output(
    arguments: list[str], output: str, is_wanted: Callable[[list[str]], bool]
) -> list[str]:
    """Return the arguments with the absolute OUT: the driver may not find the folder that a
    relative one begins in.

    The word that is OUT is the one whose change changes nothing else of the job; none is where a
    job file names OUT.
    """
    for place, word in enumerate(arguments):
        if os.path.abspath(word) == output:
            changed = [*arguments[:place], output, *arguments[place + 1 :]]
            if is_wanted(changed):
                return changed
    return arguments


def check_where(executor: str, address: str | None) -> None:
    """Raise PlanError for options of where it runs that a submitted run has not."""
    if executor != "ray" or address is not None:
        raise PlanError(
            "--executor serial and --address are for `restore`; a submitted run uses the cluster's own Ray"
        )


def check_printable(output: str) -> None:
    """Raise PlanError for an output that a script or manifest cannot name."""
    if not output.isprintable():
        raise PlanError(f"OUT {output!r} has line breaks or control characters; choose another")


def command_values(name: str, arguments: list[str]) -> dict[str, Any]:
    """Return the parameters of a command of ours for these arguments; its usage errors are ours."""
    from cluster import cli

    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    return dict(command.make_context("submit", list(arguments)).params)


def parse_restore(arguments: list[str]) -> tuple[JobSpec, bool]:
    """Return the job that `gigarestore restore` would run, and whether it may overwrite; its usage
    errors are ours.
    """
    given = command_values("restore", arguments)
    source = given["source"]
    out = given["out"]
    job = given["job"]
    if given["task"] == "generate" and out is None:
        source, out = None, source
    options = {key: value for key, value in given.items() if key in opt.OPTIONS}
    spec = opt.job_spec(
        JobSpec.load(job) if job else JobSpec(), {**options, "path": source, "output": out}
    )
    if spec.input.path is None and spec.task.name != "generate":
        raise PlanError("no input named; usage: gigarestore submit IN OUT [options of restore]")
    return spec, bool(given["overwrite"])


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
            tell(chosen.check(submission))
            return 0
        handle = chosen.submit(submission)
    except Unreachable as err:
        tell(str(err))
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
        tell(
            f"warning: {handle} cannot be remembered here ({err}), so `list` and `resume {handle}` do not know it"
        )
    tell(f"submitted; look with: gigarestore status {handle}")
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
                    tell(
                        f"{err}; nothing was heard of {handle} for {time.monotonic() - heard:.0f} s"
                    )
                    return UNREACHABLE
            else:
                heard = time.monotonic()
                if found.state.ended:
                    code = "" if found.code is None else f", exit code {found.code}"
                    tell(
                        f"{handle}: {found.state}{code}{f', {found.reason}' if found.reason else ''}"
                    )
                    if found.exit_code and found.state is not JobState.FAILED:
                        tell(
                            f"everything committed is kept, go on with: gigarestore resume {handle}"
                        )
                    return found.exit_code
            if time.monotonic() > deadline:
                tell(f"{handle} has not ended within {patience:.0f} s; it goes on")
                return TIMED_OUT
            time.sleep(POLL)
    except KeyboardInterrupt:
        tell(f"detached, the run goes on; look with: gigarestore status {handle}")
        return DETACHED


def tell(text: str) -> None:
    print(f"gigarestore: {' '.join(text.split())}", file=sys.stderr, flush=True)
