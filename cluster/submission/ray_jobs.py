"""The Ray Jobs API: a running Ray cluster with its dashboard, through Ray's own client (the extra
`jobs`).

Jobs forget: a head that died and came back calls a dead driver's job RUNNING for ever. So the
driver beats into its folder beside OUT, and a run whose job cannot be asked for, or is said to run,
counts as lost once the beat has stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.options.exit_codes import RESUMABLE
from cluster.submission.backend import Unreachable, one_line
from cluster.submission.code_package import PACKAGES, pack
from cluster.submission.handles import (
    SILENCE,
    Handle,
    JobState,
    JobStatus,
    SubmissionRecord,
    ended_code,
    silence,
)
from cluster.submission.settings import SubmissionSettings
from cluster.submission.submission import Submission, quoted
from orchestrator.errors import PlanError

OLDEST_RAY = (2, 50)
REACHABLE_SECONDS = 15.0
TRIES = 3
POLL = 1.0
# How long a log is waited for while the dashboard does not answer, seconds.
LOG_RETRY_SECONDS = 90.0
STATES = {
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.CANCELLED,
}


class RayJobsBackend:
    """Submit to the cluster whose dashboard the settings or the handle name."""

    def render(self, submission: Submission) -> str:
        folders = [f"{submission.code or '(installed)'}/{name}" for name in PACKAGES]
        return json.dumps(request(submission, folders), indent=2) + "\n"

    def check(self, submission: Submission) -> str:
        url = submission.settings.ray.dashboard
        with _answers(url):
            version = _version(_client(url, _token(submission.settings)))
        check_version(version, url)
        with tempfile.TemporaryDirectory() as folder:
            pack(Path(folder))
        return f"Ray {version} answers at {url}"

    def submit(self, submission: Submission) -> Handle:
        url = submission.settings.ray.dashboard
        handle = Handle("ray", f"{job_id(submission)}@{url}")
        with _answers(url), tempfile.TemporaryDirectory() as folder:
            client = _client(url, _token(submission.settings))
            check_version(_version(client), url)
            wanted = request(submission, [str(path) for path in pack(Path(folder))])
            for again in range(TRIES):
                try:
                    client.submit_job(**wanted)
                    break
                except OSError:
                    if again == TRIES - 1:
                        raise
                except RuntimeError as err:
                    if "already exists" in str(err):
                        break  # an earlier try's answer was lost, its job was not
                    raise PlanError(f"{url} refuses the job: {one_line(str(err))}") from None
        return handle

    def state(self, handle: Handle, record: SubmissionRecord | None) -> JobStatus:
        job, url = handle.rest.split("@", 1)
        quiet = silence(record)
        try:
            with _answers(url):
                info = _info(_client(url, _token(_settings(record))), job)
        except Unreachable:
            if quiet is None or quiet < SILENCE:
                raise
            return _gone(
                record, f"{url} does not answer, and the driver has been silent for {quiet:.0f} s"
            )
        if info is None:
            return _gone(record, "the cluster does not know the job: its head was started anew")
        state = STATES.get(str(getattr(info.status, "value", info.status)), JobState.UNKNOWN)
        reason = one_line(info.message or "")
        if state is JobState.RUNNING and quiet is not None and quiet >= SILENCE:
            return _gone(
                record, f"its job is said to run, but the driver has been silent for {quiet:.0f} s"
            )
        if state is JobState.FAILED and info.driver_exit_code == RESUMABLE:
            cancelled = (
                record is not None
                and record.folder is not None
                and (record.folder / "cancel").exists()
            )
            return JobStatus(JobState.CANCELLED if cancelled else JobState.INTERRUPTED, RESUMABLE)
        return JobStatus(
            state,
            info.driver_exit_code,
            "" if state in (JobState.RUNNING, JobState.SUCCEEDED) else reason,
        )

    def logs(self, handle: Handle, record: SubmissionRecord | None, follow: bool) -> Iterator[str]:
        job, url = handle.rest.split("@", 1)
        seen = 0
        heard = time.monotonic()
        while True:
            try:
                ended = not follow or self.state(handle, record).state.ended
                with _answers(url):
                    client = _client(url, _token(_settings(record)))
                    if ended:
                        yield client.get_job_logs(job)[seen:]
                        return
                    # The stream may break off while the job runs; it then starts at the log's
                    # beginning again.
                    place = 0
                    for piece in _tail(client, job):
                        fresh = piece[max(seen - place, 0) :]
                        place = place + len(piece)
                        seen = max(seen, place)
                        heard = time.monotonic()
                        yield fresh
            except Unreachable:
                if not follow or time.monotonic() - heard > LOG_RETRY_SECONDS:
                    raise
            time.sleep(POLL)

    def cancel(self, handle: Handle, record: SubmissionRecord | None, grace: float) -> str:
        job, url = handle.rest.split("@", 1)
        status = self.state(handle, record)
        if status.state.ended:
            return f"{handle} has already ended: {status.state}"
        # A job's own stop leaves three seconds: the driver is asked through its folder first, where
        # this machine sees it.
        if status.state is JobState.RUNNING and record is not None and record.folder is not None:
            (record.folder / "cancel").touch()
            if self._ends(handle, record, grace):
                return f"{handle} has stopped; everything committed is kept"
        with _answers(url):
            _client(url, _token(_settings(record))).stop_job(job)
        if self._ends(handle, record, 10.0):
            return f"{handle} is cancelled; everything committed is kept"
        raise PlanError(
            f"{handle} is still {status.state}: Ray does not stop a job that waits for its start; "
            "try again later"
        )

    def _ends(self, handle: Handle, record: SubmissionRecord | None, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.state(handle, record).state.ended:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)
        return True


def job_id(submission: Submission) -> str:
    """Return the job's name on the cluster: the same for the same submission, so that a retry makes
    no second job.
    """
    return f"{submission.name}-{submission.run_id}"


def request(submission: Submission, folders: list[str]) -> dict[str, Any]:
    """Return the arguments of Ray's submit_job. The driver reserves nothing: a job that waits could
    not be stopped.
    """
    environment = {**submission.environment(), "PYTHONUNBUFFERED": "1"}
    runtime: dict[str, Any] = {"env_vars": environment}
    if submission.settings.ray.ship:
        runtime["py_modules"] = folders
    return {
        "entrypoint": quoted(
            submission.driver(python=submission.settings.submit.python or "python")
        ),
        "submission_id": job_id(submission),
        "runtime_env": runtime,
        "metadata": {"gigarestore_run": submission.run_id, "output": submission.output},
    }


def check_version(version: str, url: str) -> None:
    """Raise PlanError for a cluster that is older than what gigarestore needs."""
    parts = version.split(".")
    if (
        len(parts) < 2
        or not all(part.isdigit() for part in parts[:2])
        or tuple(map(int, parts[:2])) < OLDEST_RAY
    ):
        oldest = ".".join(map(str, OLDEST_RAY))
        raise PlanError(
            f"the cluster at {url} runs Ray {version}; gigarestore needs Ray {oldest} or newer "
            "there"
        )


def _client(url: str, token: str | None) -> Any:
    with _without(
        "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"
    ):  # else Ray's client goes there, whatever it is told
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(
            url, headers=None if token is None else {"Authorization": f"Bearer {token}"}
        )


def _version(client: Any) -> str:
    """Return the cluster's version of Ray; the client's own question is answered with the API's."""
    return str(client._do_request("GET", "/api/version").json().get("ray_version"))


def _token(settings: SubmissionSettings) -> str | None:
    """Return the cluster's token from the settings' file, the environment or Ray's own file; None
    where there is none.
    """
    named = settings.ray.token_file
    if named is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
        return token
    path = Path(
        named or os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    ).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError as err:
        if named is not None:
            raise PlanError(f"cannot read --token-file {named}: {err.strerror}") from None
        return None


def _check_reachable(url: str) -> None:
    """Raise Unreachable where no dashboard answers soon; its own client would wait for ever for one
    that hangs.
    """
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=REACHABLE_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it wants a token, or has something else to say
    except (OSError, http.client.HTTPException) as err:
        raise Unreachable(
            f"no Ray dashboard answers at {url} ({err}); check --dashboard, or its tunnel"
        ) from None


@contextlib.contextmanager
def _answers(url: str) -> Iterator[None]:
    """Turn what the dashboard and its client raise into Unreachable and PlanError."""
    _check_reachable(url)
    try:
        from ray.exceptions import AuthenticationError
        from requests import RequestException

        yield
    except ImportError as err:
        raise PlanError(
            f"Ray's job client is not installed ({err}); pip install 'gigarestore[jobs]'"
        ) from None
    except AuthenticationError as err:
        missing = err.message.startswith("Authentication required")  # 401; a wrong token is 403
        what = "wants a token, and none was given" if missing else "does not take this token"
        raise PlanError(
            f"{url} {what}; give --token-file FILE or RAY_AUTH_TOKEN with the cluster's token"
        ) from None
    except (ConnectionError, TimeoutError, RequestException) as err:
        raise Unreachable(f"the Ray dashboard at {url} broke off: {one_line(str(err))}") from None
    except RuntimeError as err:
        if "ray[default]" in str(err):
            raise PlanError(
                "Ray's job client is not installed; pip install 'gigarestore[jobs]'"
            ) from None
        if "does not exist" in str(err):
            raise PlanError(f"{url} does not know the job: {one_line(str(err))}") from None
        raise Unreachable(f"{url} cannot say: {one_line(str(err))}") from None


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _info(client: Any, job: str) -> Any:
    """Return what the cluster knows of a job, None where it knows nothing."""
    try:
        return client.get_job_info(job)
    except RuntimeError as err:
        if "does not exist" in str(err):
            return None
        raise


def _tail(client: Any, job: str) -> Iterator[str]:
    """Yield a job's log as it grows, from its beginning, until Ray ends the stream or it breaks
    off.
    """
    from aiohttp import ClientError

    stream = client.tail_job_logs(job)

    async def piece() -> str | None:
        text: str | None = await anext(stream, None)
        return text

    with asyncio.Runner() as runner:
        try:
            while (text := runner.run(piece())) is not None:
                yield text
        except (ClientError, RuntimeError) as err:
            raise ConnectionError(f"the log broke off: {err}") from None


def _settings(record: SubmissionRecord | None) -> SubmissionSettings:
    return (
        SubmissionSettings()
        if record is None
        else SubmissionSettings.model_validate(record.settings)
    )


def _gone(record: SubmissionRecord | None, reason: str) -> JobStatus:
    """Return how a run ended that its cluster cannot tell of: by its own files, else it is lost."""
    code = ended_code(None if record is None else record.folder)
    if code is None:
        return JobStatus(JobState.LOST, None, reason)
    return JobStatus.of_code(code)
