"""The pods of a RayJob: one for Ray's head with the driver, one for each worker."""

from __future__ import annotations

import json
from typing import Any

from cluster.submission.kuberay.contract import ARGUMENTS, COPY_TO, RUNNING, SCRATCH, STOP
from cluster.submission.settings import KubeRay, mebibytes
from cluster.submission.submission import Submission
from orchestrator.errors import PlanError

# Ray, its dashboard and the driver, which holds a byte per tile and no pixels; staging an input
# takes a core.
HEAD_CPUS = 2
HEAD_MEBIBYTES = 8192
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
GPU = "nvidia.com/gpu"


def head_pod(submission: Submission) -> dict[str, Any]:
    """Return the pod of Ray's head, in which the driver runs."""
    common = submission.settings.submit
    driver = submission.driver(python="python")
    arguments = driver[driver.index("cluster.on_node.driver") + 1 :]
    variables = {
        ARGUMENTS: json.dumps(arguments),
        SCRATCH: SCRATCH_MOUNT,
        "RAY_JOB_STOP_WAIT_TIME_S": str(common.grace),
    }
    copy_to = submission.settings.kuberay.copy_to
    if copy_to is not None:
        variables[COPY_TO] = copy_to
    amounts = {"cpu": str(HEAD_CPUS), "memory": f"{HEAD_MEBIBYTES}Mi"}
    return _pod(submission, "ray-head", amounts, variables, HEAD_STOP)


def worker_pod(submission: Submission) -> dict[str, Any]:
    """Return the pod of a worker."""
    common = submission.settings.submit
    amounts = {"cpu": str(common.cpus), "memory": f"{mebibytes(common.memory)}Mi"}
    if common.gpus:
        amounts[GPU] = str(common.gpus)
    return _pod(submission, "ray-worker", amounts, {}, "ray stop")


def _pod(
    submission: Submission,
    name: str,
    amounts: dict[str, str],
    variables: dict[str, str],
    stop: str,
) -> dict[str, Any]:
    """Return a pod's specification.

    amounts: of what it asks for; variables: of its own; stop: shell line that ends it gently.
    """
    settings = submission.settings.kuberay
    grace = submission.settings.submit.grace
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace + RAY_STOP_SECONDS,
        "containers": [_container(submission, name, amounts, variables, stop)],
        "volumes": _volumes(settings),
    }
    if settings.service_account is not None:
        pod["serviceAccountName"] = settings.service_account
    if settings.node_selector:
        pod["nodeSelector"] = dict(text.split("=", 1) for text in settings.node_selector)
    tolerations = [_toleration(text) for text in settings.tolerations]
    if GPU in amounts:
        tolerations.append({"key": GPU, "operator": "Exists", "effect": "NoSchedule"})
    if tolerations:
        pod["tolerations"] = tolerations
    return pod


def _container(
    submission: Submission,
    name: str,
    amounts: dict[str, str],
    variables: dict[str, str],
    stop: str,
) -> dict[str, Any]:
    """Return a pod's container; requests equal limits: nobody's memory is promised twice."""
    settings = submission.settings.kuberay
    if settings.image is None:
        raise PlanError(
            "no image named; give --image REGISTRY/IMAGE@sha256:... that has gigarestore and Ray "
            "in it"
        )
    environment = {
        **HEALTH,
        "GIGARESTORE_RUN": submission.run_id,
        "PYTHONUNBUFFERED": "1",
        **variables,
        **submission.environment(),
    }
    plain = [{"name": key, "value": _literal(value)} for key, value in environment.items()]
    data = [
        {"name": f"data-{number}", "mountPath": mount}
        for number, (_, mount) in enumerate(claims(settings))
    ]
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "env": [*plain, *_secrets(settings)],
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", stop]}}},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "scratch", "mountPath": SCRATCH_MOUNT},
            *data,
        ],
    }


def _volumes(settings: KubeRay) -> list[dict[str, Any]]:
    # Counted inside the container's memory limit.
    shared_memory = {"medium": "Memory", "sizeLimit": settings.shared_memory}
    data = [
        {"name": f"data-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, (claim, _) in enumerate(claims(settings))
    ]
    return [
        {"name": "shm", "emptyDir": shared_memory},
        {"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch}},
        *data,
    ]


def claims(settings: KubeRay) -> list[tuple[str, str]]:
    """Return (claim, mount) pairs."""
    pairs = [text.split(":", 1) for text in settings.claims]
    return [(claim, mount.rstrip("/") or "/") for claim, mount in pairs]


def _literal(value: str) -> str:
    """Return a value that Kubernetes reads as it is: $(NAME) would be another variable's value, and
    $$ is one $.
    """
    return value.replace("$", "$$")


def _secrets(settings: KubeRay) -> list[dict[str, Any]]:
    secrets = []
    for text in settings.secrets:
        name, _, place = text.partition("=")
        secret, _, key = place.partition(":")
        reference = {"secretKeyRef": {"name": secret, "key": key}}
        secrets.append({"name": name, "valueFrom": reference})
    return secrets


def _toleration(text: str) -> dict[str, str]:
    """Read KEY or KEY=VALUE, optionally :EFFECT."""
    label, _, effect = text.partition(":")
    key, equals, value = label.partition("=")
    toleration = {"key": key, "operator": "Equal" if equals else "Exists"}
    if equals:
        toleration["value"] = value
    if effect:
        toleration["effect"] = effect
    return toleration
