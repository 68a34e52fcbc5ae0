"""What makes a RayJob manifest acceptable: the strict schema of the fields that we write, the
operator's own rules, ours.

The API server drops or refuses what is not in the schema; the operator then refuses more, in an
event that nobody reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.errors import PlanError

SCHEMA = Path(__file__).parents[2] / "rayjob.schema.json"
# KubeRay appends to it, and Kubernetes allows 63.
LONGEST_NAME = 47
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
# The first Ray with token authentication.
TOKEN_RAY = (2, 52)
GPU = "nvidia.com/gpu"
UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def check(manifest: dict[str, Any]) -> None:
    """Raise PlanError, one line, on the first violation of the schema or of a rule."""
    for problem in schema_problems(manifest) or lint(
        manifest
    ):  # rules may rely on the types of what they compare
        raise PlanError(f"the RayJob manifest would be refused: {problem}")


def schema_problems(manifest: dict[str, Any], schema: dict[str, Any] | None = None) -> list[str]:
    """Return what a JSON schema, by default that of the fields that we write, finds wrong: place
    and message.
    """
    validator = _validator() if schema is None else _make(schema)
    return [
        f"{error.json_path.removeprefix('$.')}: {error.message[:200]}"
        for error in validator.iter_errors(manifest)
    ]


def lint(manifest: dict[str, Any]) -> list[str]:
    """Return the violations of the operator's validation that no schema expresses, and of what a
    long batch run needs.
    """
    spec = manifest.get("spec", {})
    problems = [*_metadata(manifest.get("metadata", {})), *_job(spec)]
    if (cluster := spec.get("rayClusterSpec")) is not None:
        problems += [*_cluster(cluster), *_queue(manifest, spec, cluster)]
    return problems


def _metadata(metadata: dict[str, Any]) -> Iterator[str]:
    name = str(metadata.get("name", ""))
    if len(name) > LONGEST_NAME:
        yield (
            f"metadata.name {name!r} has {len(name)} characters, at most {LONGEST_NAME} are allowed"
        )
    if re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) is None:
        yield (
            f"metadata.name {name!r} is no DNS-1035 label: lower case, digits and dashes, a "
            "letter first"
        )
    if (
        re.fullmatch(
            r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
            namespace := str(metadata.get("namespace", "default")),
        )
        is None
    ):
        yield f"metadata.namespace {namespace!r} is no name of a namespace"
    for key, value in metadata.get("labels", {}).items():
        if re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", str(value), re.ASCII) is None:
            yield (
                f"label {key} = {value!r} is no label's value: at most 63 letters, digits, "
                "dashes, dots"
            )


def _job(spec: dict[str, Any]) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    selector = spec.get("clusterSelector")
    rules = spec.get("deletionStrategy", {}).get("deletionRules")
    retries = spec.get("backoffLimit", 0)
    if mode not in MODES:
        yield f"submissionMode {mode!r} is unknown; known: {', '.join(MODES)}"
    if spec.get("suspend") and not shutdown:
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttlSecondsAfterFinished is negative"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if shutdown and rules:
        yield "shutdownAfterJobFinishes and deletionRules exclude each other"
    if selector:
        if spec.get("suspend") or retries or mode == "SidecarMode":
            yield "clusterSelector excludes suspend, backoffLimit and SidecarMode"
    elif spec.get("rayClusterSpec") is None:
        yield "one of rayClusterSpec and clusterSelector is needed"
    if mode == "InteractiveMode" and retries:
        yield "InteractiveMode excludes backoffLimit"
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig"} & set(spec):
        yield "SidecarMode excludes submitterPodTemplate and submitterConfig"
    if retries < 0:
        yield "backoffLimit is negative"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield f"{key} is not above 0"
    if re.search(r"[$`\"'\\;&|<>(){}*?#~!\n]", str(spec.get("entrypoint", ""))):
        yield (
            "the entrypoint would be read by two shells; keep it plain and pass values in variables"
        )


def _cluster(cluster: dict[str, Any]) -> Iterator[str]:
    head = cluster.get("headGroupSpec", {})
    workers = cluster.get("workerGroupSpecs", [])
    if cluster.get("authOptions", {}).get("mode") == "token":
        version = str(cluster.get("rayVersion", ""))
        numbers = re.match(r"v?(\d+)\.(\d+)", version)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < TOKEN_RAY:
            oldest = ".".join(map(str, TOKEN_RAY))
            yield (
                f"authOptions.mode token needs rayVersion {oldest} or newer, it is "
                f"{version or 'not set'}"
            )
    else:
        yield "authOptions.mode is not token: the cluster would run anybody's code"
    names = [str(group.get("groupName")) for group in workers]
    if len(set(names)) < len(names):
        yield f"groupName is not unique: {', '.join(names)}"
    for group, name in [(head, "head"), *zip(workers, names, strict=True)]:
        yield from _group(group, name)
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield (
            "the head takes workers unless its num-cpus is 0: they would die of the driver's "
            "memory, and it of theirs"
        )
    if any(GPU in _amounts(container, "limits") for container in _containers(head)):
        yield "the head asks for a GPU that nothing there would use"
    for group, name in zip(workers, names, strict=True):
        least, count, most = (group.get(key) for key in ("minReplicas", "replicas", "maxReplicas"))
        if None not in (least, count, most) and not least <= count <= most:
            yield f"group {name}: replicas {count} is not between {least} and {most}"


def _group(group: dict[str, Any], name: str) -> Iterator[str]:
    start = group.get("rayStartParams", {})
    pod = group.get("template", {}).get("spec", {})
    if not _containers(group):
        yield f"group {name} has no container"
    if "labels" in start:
        yield f"group {name}: rayStartParams may hold no labels"
    if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(start):
        yield f"group {name}: resources stand in rayStartParams and in resources"
    if "redis-username" in start:
        yield f"group {name}: the Redis user belongs into gcsFaultToleranceOptions"
    if pod.get("restartPolicy") != "Never":
        yield (
            f"group {name}: restartPolicy is not Never: Kubernetes would restart Ray under "
            "KubeRay's feet"
        )
    memory = {
        v["name"]: v["emptyDir"]
        for v in pod.get("volumes", [])
        if v.get("emptyDir", {}).get("medium")
    }
    for container in _containers(group):
        if re.fullmatch(r"[\w./:@-]+", str(container.get("image", "")), re.ASCII) is None:
            yield (
                f"group {name}: {container.get('image')!r} is no image; write "
                "REGISTRY/IMAGE@sha256:... or IMAGE:TAG"
            )
        variables = {entry.get("name") for entry in container.get("env", [])}
        if forbidden := variables & {"RAY_REDIS_ADDRESS", "REDIS_USERNAME"}:
            yield (
                f"group {name}: {', '.join(sorted(forbidden))} would switch on GCS fault tolerance "
                "without its options"
            )
        requests = _amounts(container, "requests")
        limits = _amounts(container, "limits")
        if requests.get(GPU) != limits.get(GPU):
            yield f"group {name}: {GPU} differs in requests and limits"
        if "memory" not in limits:
            yield f"group {name}: no memory limit, a node's other pods would be in danger"
        for mount in container.get("volumeMounts", []):
            volume = memory.get(mount.get("name"))
            if volume is not None and "memory" in limits:
                size = volume.get("sizeLimit")
                if size is None or _bytes(size) >= _bytes(limits["memory"]):
                    yield (
                        f"group {name}: {mount['mountPath']} ({size}) does not fit into the "
                        f"memory limit {limits['memory']}"
                    )


def _queue(
    manifest: dict[str, Any], spec: dict[str, Any], cluster: dict[str, Any]
) -> Iterator[str]:
    queue = manifest.get("metadata", {}).get("labels", {}).get(QUEUE_LABEL)
    if queue is not None and not spec.get("suspend"):
        yield f"a job of the queue {queue} must begin suspended, Kueue starts it"
    if queue is None and spec.get("suspend"):
        yield "the job is suspended and no queue would start it"
    if queue is not None and cluster.get("enableInTreeAutoscaling"):
        yield "Kueue counts the pods of a job once: no in-tree autoscaling with a queue"


def _containers(group: dict[str, Any]) -> list[dict[str, Any]]:
    return list(group.get("template", {}).get("spec", {}).get("containers", []))


def _amounts(container: dict[str, Any], kind: str) -> dict[str, Any]:
    return dict(container.get("resources", {}).get(kind, {}))


def _bytes(quantity: object) -> float:
    """Return a Kubernetes quantity as a number; one that is none counts as endless."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)(k|[MGT]|[KMGT]i)?", str(quantity))
    return float(match[1]) * UNITS[match[2] or ""] if match else float("inf")


@cache
def _validator() -> Any:
    return _make(json.loads(SCHEMA.read_text(encoding="utf-8")))


def _make(schema: dict[str, Any]) -> Any:
    from jsonschema.validators import validator_for

    return validator_for(schema)(schema)
