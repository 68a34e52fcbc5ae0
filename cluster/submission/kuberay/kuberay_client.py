"""KubeRay through kubectl: whatever cluster and user the current context of its configuration
names.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from cluster.options.exit_codes import RESUMABLE
from cluster.submission.backend import Unreachable, call, one_line
from cluster.submission.handles import (
    Handle,
    JobState,
    JobStatus,
    SubmissionRecord,
    ended_code,
)
from cluster.submission.kuberay.rayjob_manifest import job_name, render
from cluster.submission.submission import Submission
from orchestrator.errors import PlanError

# What jobDeploymentStatus says before the driver has begun, or between two attempts.
WAITING = {
    "": JobState.PENDING,
    "New": JobState.PENDING,
    "Initializing": JobState.PENDING,
    "Waiting": JobState.PENDING,
    "Suspending": JobState.REQUEUED,
    "Suspended": JobState.PENDING,
    "Retrying": JobState.REQUEUED,
}
POLL = 2.0


class KubeRayBackend:
    """Submit to the Kubernetes cluster that kubectl is configured for."""

    def render(self, submission: Submission) -> str:
        return render(submission)

    def check(self, submission: Submission) -> str:
        said = _kubectl(["create", "--dry-run=server", "--filename=-"], render(submission))
        return (
            f"the API server would take it: {one_line(said)} (image, claims, quota and queue are "
            "looked up later)"
        )

    def submit(self, submission: Submission) -> Handle:
        namespace = submission.settings.kuberay.namespace
        name = job_name(submission)
        try:
            _kubectl(["create", "--filename=-"], render(submission))
        except PlanError as err:
            if "AlreadyExists" not in str(
                err
            ):  # the answer to an earlier try was lost, the job was not
                raise
        return Handle("k8s", f"{namespace}/{name}")

    def state(self, handle: Handle, record: SubmissionRecord | None) -> JobStatus:
        try:
            job = json.loads(_kubectl(["get", "rayjob.ray.io", *_place(handle), "--output=json"]))
        except PlanError as err:
            if "NotFound" not in str(err):
                raise
            code = ended_code(None if record is None else record.folder)
            if code is None:
                return JobStatus(
                    JobState.CANCELLED, None, "there is no such RayJob any more: it was deleted"
                )
            return JobStatus.of_code(code)
        except ValueError:
            raise Unreachable("kubectl did not answer with JSON; try again later") from None
        return parse_status(job)

    def logs(self, handle: Handle, record: SubmissionRecord | None, follow: bool) -> Iterator[str]:
        seen: dict[str, int] = {}  # per pod: every attempt has a submitter of its own
        while True:
            ended = not follow or self.state(handle, record).state.ended
            pod = _submitter(handle)
            if pod is None and ended and not seen:
                raise PlanError(
                    f"{handle} has no log: its submitter's pod has not started, or it is gone"
                )
            if pod is not None:
                yield from _log(handle, pod, seen, follow and not ended)
            if ended:
                return
            time.sleep(POLL)

    def cancel(self, handle: Handle, record: SubmissionRecord | None, grace: float) -> str:
        status = self.state(handle, record)
        if status.state.ended:
            return f"{handle} has already ended: {status.state}"
        # The operator first stops the driver, which has the grace that the manifest gives it.
        _kubectl(
            [
                "delete",
                "rayjob.ray.io",
                *_place(handle),
                "--wait=true",
                f"--timeout={grace + 60:.0f}s",
            ],
            wait=grace + 90,
        )
        return f"{handle} is deleted; everything committed is kept"


def parse_status(job: dict[str, Any]) -> JobStatus:
    """Return the state of a RayJob as `kubectl get --output=json` shows it."""
    spec = job.get("spec") or {}
    status = job.get("status") or {}
    phase = str(status.get("jobDeploymentStatus", ""))
    ray = str(status.get("jobStatus", ""))
    reason = ": ".join(filter(None, (status.get("reason"), one_line(status.get("message") or ""))))
    if phase in WAITING:
        suspended = spec.get("suspend") and phase in ("", "New", "Suspended")
        return JobStatus(
            WAITING[phase], None, "suspended: it waits for its queue" if suspended else reason
        )
    if phase == "Running":
        return JobStatus(JobState.RUNNING if ray == "RUNNING" else JobState.PENDING, None, reason)
    if phase not in ("Complete", "Failed"):
        return JobStatus(JobState.UNKNOWN, None, f"jobDeploymentStatus {phase!r}")
    if ray == "SUCCEEDED":
        return JobStatus(JobState.SUCCEEDED, 0)
    if status.get("reason") == "DeadlineExceeded":
        return JobStatus(JobState.TIMEOUT, None, reason)
    if ray == "STOPPED":
        return JobStatus(JobState.CANCELLED, None, reason)
    stated = re.search(r"exit code (\d+)", reason)
    code = int(stated[1]) if stated else None
    return JobStatus(JobState.INTERRUPTED if code == RESUMABLE else JobState.FAILED, code, reason)


def _kubectl(arguments: list[str], text: str | None = None, *, wait: float = 60.0) -> str:
    """Run kubectl; return its stdout. Raises PlanError where there is none or it refuses,
    Unreachable on silence.
    """
    if shutil.which("kubectl") is None:
        raise PlanError(
            "there is no kubectl on this machine; install it, or apply what `submit --dry-run` "
            "prints elsewhere"
        )
    return call(["kubectl", *arguments], text, wait)


def _place(handle: Handle) -> list[str]:
    namespace, _, name = handle.rest.partition("/")
    return [name, f"--namespace={namespace}"]


def _submitter(handle: Handle) -> str | None:
    """Return the pod that follows the driver's log, of the latest attempt."""
    name, namespace = _place(handle)
    names = _kubectl(
        [
            *(
                "get",
                "pods",
                namespace,
                f"--selector=job-name={name}",
                "--sort-by=.metadata.creationTimestamp",
            ),
            "--output=jsonpath={.items[*].metadata.name}",
        ]
    ).split()
    return names[-1] if names else None


def _log(handle: Handle, pod: str, seen: dict[str, int], follow: bool) -> Iterator[str]:
    """Yield what is new in a pod's log; a stream that breaks off begins again at its start."""
    _, namespace = _place(handle)
    command = ["logs", pod, namespace, *(["--follow"] if follow else [])]
    if not follow:
        yield _kubectl(command)[seen.get(pod, 0) :]
        return
    place = 0
    with subprocess.Popen(
        ["kubectl", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    ) as stream:
        assert stream.stdout is not None
        try:
            for line in stream.stdout:
                fresh = line[max(seen.get(pod, 0) - place, 0) :]
                place += len(line)
                if fresh:
                    seen[pod] = place
                    yield fresh
        finally:
            stream.terminate()
