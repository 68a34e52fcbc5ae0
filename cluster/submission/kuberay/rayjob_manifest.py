"""A submission as a RayJob manifest of KubeRay: a pure function, validated and linted before
anybody sees it.

KubeRay pastes the entrypoint into a shell command, unquoted, and Ray's client hands it to a second
shell. So the entrypoint is a constant, and the driver's arguments travel as JSON in a variable of
the head (cluster.on_node.kuberay_entrypoint).
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from typing import Any

from cluster.submission.kuberay.pods import claims, head_pod, worker_pod
from cluster.submission.kuberay.rules import LONGEST_NAME, QUEUE_LABEL, check
from cluster.submission.settings import KubeRay, seconds
from cluster.submission.submission import Submission
from orchestrator.errors import PlanError
from storage.byte_source import is_url, redact

# Nothing but keys and reports travels through Ray, bytes.
OBJECT_STORE = "200000000"
# A pod that waits this long has an image that cannot be pulled or no quota, seconds.
PRE_RUNNING_SECONDS = 1800
# The finished RayJob's cluster stays this long, for its logs, seconds.
KEPT_SECONDS = 600
# KubeRay retries every failure alike, bad input too, each time with a new cluster.
MOST_RETRIES = 3


def render(submission: Submission) -> str:
    """Return the complete manifest as YAML; raises PlanError on what the operator would refuse."""
    import yaml

    document = manifest(submission)
    check(document)
    return str(yaml.safe_dump(document, sort_keys=False, width=120))


def check_places(places: Iterable[tuple[str, str | None]], settings: KubeRay) -> None:
    """Raise PlanError unless the pods see IN and OUT: on a claim, IN also behind a URL; and a copy
    goes to a URL.

    places: what each path is (IN, OUT, another option), and the path.
    """
    if settings.copy_to is not None and not is_url(settings.copy_to):
        raise PlanError(
            f"--copy-to {settings.copy_to} is no URL; give s3://BUCKET/PREFIX, gs:// or az://"
        )
    for what, path in places:
        if path is None or (what != "OUT" and is_url(path)):
            continue
        if re.match(
            r"[a-z][a-z0-9+.-]*:/", path
        ):  # as a path type leaves the two slashes of an address
            raise PlanError(
                f"OUT {redact(path)} is a URL, but a run works in a folder; put OUT on a claim "
                "that all pods may write and "
                "give --copy-to URL for the finished image"
            )
        if not any(_below(path, mount) for _, mount in claims(settings)):
            raise PlanError(
                f"{what} {path} is on no volume of the pods; give --claim CLAIM:/MOUNT with it "
                "below the mount"
            )


def job_name(submission: Submission) -> str:
    """Return the RayJob's name: the same for the same submission, so that a retry makes no second
    job.
    """
    longest = LONGEST_NAME - len(f"-{submission.run_id}")
    return f"{submission.name[:longest].rstrip('-')}-{submission.run_id}"


def manifest(submission: Submission) -> dict[str, Any]:
    """Return the RayJob as plain values."""
    common = submission.settings.submit
    settings = submission.settings.kuberay
    if common.min_nodes not in (None, common.nodes):
        raise PlanError(
            "--min-nodes is for slurm: KubeRay starts a job once all of its pods are there; give "
            "--nodes"
        )
    queue = {} if settings.queue is None else {QUEUE_LABEL: settings.queue}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": job_name(submission),
            "namespace": settings.namespace,
            "labels": {**_labels(submission), **queue},
        },
        "spec": {
            "submissionMode": "K8sJobMode",
            "entrypoint": f"{_python(common.python)} -u -m cluster.on_node.kuberay_entrypoint",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "activeDeadlineSeconds": seconds(common.time),
            "preRunningDeadlineSeconds": PRE_RUNNING_SECONDS,
            "backoffLimit": min(common.restarts, MOST_RETRIES),
            "suspend": settings.queue is not None,
            "rayClusterSpec": _ray_cluster(submission),
        },
    }


def _ray_cluster(submission: Submission) -> dict[str, Any]:
    """Return the cluster of the job: a head that takes no tiles, and one group of workers."""
    settings = submission.settings.kuberay
    head_start = {
        "num-cpus": "0",
        "object-store-memory": OBJECT_STORE,
        "dashboard-host": "0.0.0.0",
    }
    return {
        "rayVersion": settings.ray_version or importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": False,
        "headGroupSpec": {
            "rayStartParams": head_start,
            "template": _template(submission, head_pod(submission)),
        },
        "workerGroupSpecs": [_workers(submission)],
    }


def _workers(submission: Submission) -> dict[str, Any]:
    common = submission.settings.submit
    return {
        "groupName": "workers",
        "replicas": common.nodes,
        "minReplicas": common.nodes,
        "maxReplicas": common.nodes,
        "rayStartParams": {
            "num-cpus": str(common.cpus),
            "object-store-memory": OBJECT_STORE,
        },
        "template": _template(submission, worker_pod(submission)),
    }


def _template(submission: Submission, pod: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"labels": _labels(submission)}, "spec": pod}


def _labels(submission: Submission) -> dict[str, str]:
    return {"app.kubernetes.io/name": "gigarestore", "gigarestore/run": submission.run_id}


def _below(path: str, mount: str) -> bool:
    return path.startswith(f"{mount}/") and ".." not in path.split("/")


def _python(given: str | None) -> str:
    python = given or "python"
    if re.fullmatch(r"[A-Za-z0-9_./+-]+", python) is None:
        raise PlanError(f"--python {python!r} would be read by a shell; give a plain name or path")
    return python
