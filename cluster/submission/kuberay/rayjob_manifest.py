"""A submission as a RayJob manifest of KubeRay: a pure function, validated and linted before
anybody sees it.

KubeRay pastes the entrypoint into a shell command, unquoted, and Ray's client hands it to a second
shell. So the entrypoint is a constant, and the driver's arguments travel as JSON in a variable of
the head (cluster.on_node.kuberay_entrypoint).
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable
from typing import Any

from cluster.submission.kuberay.contract import ARGUMENTS, COPY_TO, RUNNING, SCRATCH, STOP
from cluster.submission.kuberay.rules import LONGEST_NAME, QUEUE_LABEL, check
from cluster.submission.settings import KubeRay, mebibytes, seconds
from cluster.submission.submission import Submission
from orchestrator.errors import PlanError
from storage.byte_source import is_url, redact

# Ray, its dashboard and the driver, which holds a byte per tile and no pixels; staging an input
# takes a core.
HEAD_CPUS = 2
HEAD_MEBIBYTES = 8192
# Nothing but keys and reports travels through Ray, bytes.
OBJECT_STORE = "200000000"
# A pod that waits this long has an image that cannot be pulled or no quota, seconds.
PRE_RUNNING_SECONDS = 1800
# The finished RayJob's cluster stays this long, for its logs, seconds.
KEPT_SECONDS = 600
# KubeRay retries every failure alike, bad input too, each time with a new cluster.
MOST_RETRIES = 3
# What `ray stop` may take after the driver has ended, seconds.
RAY_STOP_SECONDS = 30
# A node is declared dead after (period + timeout) x threshold = 28 s; Ray's defaults let a cut link
# take a minute.
HEALTH = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}
SCRATCH_MOUNT = "/tmp"
# Before Kubernetes ends the head's container, the driver lets its batches end; then Ray goes in
# order.
HEAD_STOP = (
    f"touch {SCRATCH_MOUNT}/{STOP}; while [ -e {SCRATCH_MOUNT}/{RUNNING} ]; do sleep 1; done; ray "
    "stop"
)


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
        if not any(_below(path, mount) for _, mount in _claims(settings)):
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
    labels = {"app.kubernetes.io/name": "gigarestore", "gigarestore/run": submission.run_id}
    queue = {} if settings.queue is None else {QUEUE_LABEL: settings.queue}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": job_name(submission),
            "namespace": settings.namespace,
            "labels": {**labels, **queue},
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
            "rayClusterSpec": {
                "rayVersion": settings.ray_version or importlib.metadata.version("ray"),
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": False,
                "headGroupSpec": {
                    "rayStartParams": {
                        "num-cpus": "0",
                        "object-store-memory": OBJECT_STORE,
                        "dashboard-host": "0.0.0.0",
                    },
                    "template": {"metadata": {"labels": dict(labels)}, "spec": _head(submission)},
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": common.nodes,
                        "minReplicas": common.nodes,
                        "maxReplicas": common.nodes,
                        "rayStartParams": {
                            "num-cpus": str(common.cpus),
                            "object-store-memory": OBJECT_STORE,
                        },
                        "template": {
                            "metadata": {"labels": dict(labels)},
                            "spec": _worker(submission),
                        },
                    }
                ],
            },
        },
    }


def _head(submission: Submission) -> dict[str, Any]:
    common = submission.settings.submit
    settings = submission.settings.kuberay
    driver = submission.driver(python="python")
    own = {
        ARGUMENTS: json.dumps([*driver[driver.index("cluster.on_node.driver") + 1 :]]),
        SCRATCH: SCRATCH_MOUNT,
        "RAY_JOB_STOP_WAIT_TIME_S": str(common.grace),
        **({} if settings.copy_to is None else {COPY_TO: settings.copy_to}),
    }
    amounts = {"cpu": str(HEAD_CPUS), "memory": f"{HEAD_MEBIBYTES}Mi"}
    return _pod(submission, "ray-head", amounts, own, HEAD_STOP)


def _worker(submission: Submission) -> dict[str, Any]:
    common = submission.settings.submit
    amounts = {"cpu": str(common.cpus), "memory": f"{mebibytes(common.memory)}Mi"}
    if common.gpus:
        amounts["nvidia.com/gpu"] = str(common.gpus)
    return _pod(submission, "ray-worker", amounts, {}, "ray stop")


def _pod(
    submission: Submission, name: str, amounts: dict[str, str], own: dict[str, str], stop: str
) -> dict[str, Any]:
    """Return a pod's specification; requests equal limits, so that nobody's memory is promised
    twice.
    """
    common = submission.settings.submit
    settings = submission.settings.kuberay
    if settings.image is None:
        raise PlanError(
            "no image named; give --image REGISTRY/IMAGE@sha256:... that has gigarestore and Ray "
            "in it"
        )
    claims = _claims(settings)
    plain = {
        **HEALTH,
        "GIGARESTORE_RUN": submission.run_id,
        "PYTHONUNBUFFERED": "1",
        **own,
        **submission.environment(),
    }
    container = {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "env": [
            *({"name": key, "value": _literal(value)} for key, value in plain.items()),
            *_secrets(settings),
        ],
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", stop]}}},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "scratch", "mountPath": SCRATCH_MOUNT},
            *({"name": f"data-{i}", "mountPath": mount} for i, (_, mount) in enumerate(claims)),
        ],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": common.grace + RAY_STOP_SECONDS,
        "containers": [container],
        "volumes": [
            # Counted inside the container's memory limit.
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
            {"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch}},
            *(
                {"name": f"data-{i}", "persistentVolumeClaim": {"claimName": claim}}
                for i, (claim, _) in enumerate(claims)
            ),
        ],
    }
    if settings.service_account is not None:
        pod["serviceAccountName"] = settings.service_account
    if settings.node_selector:
        pod["nodeSelector"] = dict(text.split("=", 1) for text in settings.node_selector)
    tolerations = [_toleration(text) for text in settings.tolerations]
    if "nvidia.com/gpu" in amounts:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    return {**pod, "tolerations": tolerations} if tolerations else pod


def _literal(value: str) -> str:
    """Return a value that Kubernetes reads as it is: $(NAME) would be another variable's value, and
    $$ is one $.
    """
    return value.replace("$", "$$")


def _secrets(settings: KubeRay) -> list[dict[str, Any]]:
    found = []
    for text in settings.secrets:
        name, _, place = text.partition("=")
        secret, _, key = place.partition(":")
        found.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return found


def _toleration(text: str) -> dict[str, str]:
    label, _, effect = text.partition(":")
    key, equals, value = label.partition("=")
    found = (
        {"key": key, "operator": "Equal", "value": value}
        if equals
        else {"key": key, "operator": "Exists"}
    )
    return {**found, "effect": effect} if effect else found


def _claims(settings: KubeRay) -> list[tuple[str, str]]:
    """Return (claim, mount) pairs."""
    pairs = [text.split(":", 1) for text in settings.claims]
    return [(claim, mount.rstrip("/") or "/") for claim, mount in pairs]


def _below(path: str, mount: str) -> bool:
    return path.startswith(f"{mount}/") and ".." not in path.split("/")


def _python(given: str | None) -> str:
    python = given or "python"
    if re.fullmatch(r"[A-Za-z0-9_./+-]+", python) is None:
        raise PlanError(f"--python {python!r} would be read by a shell; give a plain name or path")
    return python
