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
from cluster.submission.settings import Loaded, load
from cluster.submission.submission import BATCH, Submission, code_folder, new_run_id
from cluster.submitted_runs.backends import backend
from orchestrator.errors import PlanError
from orchestrator.run_folder import RunDir, check_output

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
