"""SLURM by its own programs: sbatch, squeue, sacct, scontrol, scancel. "Unknown" is never "failed".

The state is asked of squeue, then of the run's own files, then of sacct and scontrol
(cluster.submission.slurm.state): of an array once for all tasks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.options.exit_codes import RESUMABLE
from cluster.submission.backend import Unreachable, attempt, call, one_line
from cluster.submission.handles import (
    Handle,
    JobState,
    JobStatus,
    SubmissionRecord,
    ended_code,
)
from cluster.submission.log_follower import follow_files
from cluster.submission.slurm.script import render
from cluster.submission.slurm.state import Answers
from cluster.submission.submission import MANIFEST, SHARE, Submission
from orchestrator.errors import PlanError

# Ends that are a job's own. One whose node died or that was preempted may be queued again, one that
# stopped be cancelled.
FINAL = (
    JobState.SUCCEEDED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.TIMEOUT,
    JobState.OUT_OF_MEMORY,
)
POLL = 2.0


class SlurmBackend:
    """Submit to the SLURM that the programs on PATH belong to.

    It remembers how jobs ended: of hundreds of tasks, those that have are neither asked for nor
    looked up again.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[JobState | None, JobStatus]] = {}
        """How jobs ended, and what the queue said of them then."""

    def render(self, submission: Submission) -> str:
        return render(submission)

    def check(self, submission: Submission) -> str:
        done = attempt(["sbatch", "--test-only"], render(submission))
        if done.returncode:
            raise PlanError(f"sbatch refuses: {one_line(done.stderr)}; change the named option")
        return one_line(done.stderr or done.stdout)

    def submit(self, submission: Submission) -> Handle:
        text = render(submission)
        folder = Path(submission.folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if submission.manifest is not None:
            (folder / MANIFEST).write_text(submission.manifest, encoding="utf-8")
        script = folder / "job.sh"
        script.write_text(text, encoding="utf-8")
        # A time-out here may hide a job that was accepted: its name is unique, so it can be looked
        # for.
        answer = call(
            ["sbatch", "--parsable", f"--comment=gigarestore {submission.run_id}", str(script)]
        )
        match = re.fullmatch(r"(\d+)(;\S+)?", answer.strip())
        if match is None:
            raise Unreachable(
                f"sbatch answered {one_line(answer)!r} instead of a job id; look with squeue --me"
            )
        return Handle("slurm", match[1])

    def state(self, handle: Handle, record: SubmissionRecord | None) -> JobStatus:
        answers = Answers(handle.rest)
        return together([self._state(job, answers, record) for job in _jobs(handle, record)])

    def _state(self, job: str, answers: Answers, record: SubmissionRecord | None) -> JobStatus:
        """Return the state of one job; what is known of its end holds until the queue says
        something else.
        """
        queued = answers.squeue.get(job)
        if queued is not None and not queued.state.ended:
            self._known.pop(job, None)
            return queued
        said, known = self._known.get(job, (None, None))
        if known is None or (queued is not None and queued.state is not said):
            known = _settle(job, answers, record)
            self._known.pop(job, None)
            if known.state in FINAL and (
                known.state is not JobState.FAILED or known.code is not None
            ):
                self._known[job] = None if queued is None else queued.state, known
        return known

    def logs(self, handle: Handle, record: SubmissionRecord | None, follow: bool) -> Iterator[str]:
        if record is None or record.folder is None:
            raise PlanError(
                f"the log of {handle} lies beside its OUT, which this machine does not see"
            )
        paths = [record.folder / f"{job}.log" for job in _jobs(handle, record)]
        return follow_files(
            paths, (lambda: self.state(handle, record).state.ended) if follow else (lambda: True)
        )

    def cancel(self, handle: Handle, record: SubmissionRecord | None, grace: float) -> str:
        status = self.state(handle, record)
        if status.state.ended:
            return f"{handle} has already ended: {status.state}"
        gentle = status.state is JobState.RUNNING
        folder = _folder(handle.rest, record, within="_" in handle.rest)
        if folder is not None:
            folder.mkdir(exist_ok=True)
            (folder / "cancel").touch()
        deadline = time.monotonic() + (grace if gentle and folder is not None else 0)
        while time.monotonic() < deadline:
            if self.state(handle, record).state.ended:
                return f"{handle} has stopped; everything committed is kept"
            time.sleep(min(POLL, grace))
        call(["scancel", handle.rest])
        return f"{handle} is cancelled; everything committed is kept"


def _jobs(handle: Handle, record: SubmissionRecord | None) -> list[str]:
    """Return the names of a submission's jobs: those of all tasks for the handle of an array."""
    shares = None if record is None else record.submission(record.run_id).shares
    if shares is None or "_" in handle.rest:
        return [handle.rest]
    return [f"{handle.rest}_{task}" for task in range(1, shares + 1)]


def _folder(job: str, record: SubmissionRecord | None, *, within: bool = True) -> Path | None:
    """Return the folder in which a job's driver beats, where this machine sees it; not within: that
    of all tasks.
    """
    _, _, task = job.partition("_")
    if record is None or record.folder is None:
        return None
    return record.folder / f"{SHARE}{task}" if task and within else record.folder


def _settle(job: str, answers: Answers, record: SubmissionRecord | None) -> JobStatus:
    """Return the state of one job that does not wait or run, by whoever knows it."""
    code = _own_code(job, record)
    status = answers.squeue.get(job) or answers.ended(job)
    if status is None or status.state is JobState.UNKNOWN:
        if code is None:
            return JobStatus(
                JobState.UNKNOWN, None, "SLURM no longer knows the job, and it left no exit code"
            )
        status = JobStatus(JobState.FAILED if code else JobState.SUCCEEDED)
    if status.state is JobState.FAILED:
        if code is None:
            code = answers.exit_code(job) if status.code is None else status.code
        if code == RESUMABLE:
            places = [_folder(job, record, within=within) for within in (True, False)]
            cancelled = any(place is not None and (place / "cancel").exists() for place in places)
            return JobStatus(JobState.CANCELLED if cancelled else JobState.INTERRUPTED, code)
    return JobStatus(status.state, 0 if status.state is JobState.SUCCEEDED else code, status.reason)


def together(tasks: list[JobStatus]) -> JobStatus:
    """Return the state of an array from those of its tasks: under way while one is, else what is
    wrong with those that are.
    """
    if len(tasks) == 1:
        return tasks[0]
    ended = sum(task.state.ended for task in tasks)
    for state in (JobState.RUNNING, JobState.REQUEUED, JobState.PENDING, JobState.UNKNOWN):
        if reasons := [task.reason for task in tasks if task.state is state]:
            said = next(filter(None, reasons), "")
            return JobStatus(
                state,
                None,
                f"{ended} of {len(tasks)} shares have ended{f', {said}' if said else ''}",
            )
    bad = [task for task in tasks if task.state is not JobState.SUCCEEDED]
    if not bad:
        return JobStatus(JobState.SUCCEEDED, 0)
    states = {task.state for task in bad}
    codes = {task.exit_code for task in bad}
    said = f"{len(bad)} of {len(tasks)} shares"
    if len(states) == 1 and len(codes) == 1:
        return JobStatus(states.pop(), codes.pop(), said)
    return (
        JobStatus(JobState.INTERRUPTED, RESUMABLE, said)
        if codes == {RESUMABLE}
        else JobStatus(JobState.FAILED, 1, said)
    )


def _own_code(job: str, record: SubmissionRecord | None) -> int | None:
    """Return the exit code that the run itself left, of the job's last attempt."""
    if record is None or record.folder is None:
        return None
    ended = [
        path
        for path in record.folder.glob(f"{job}.*/exit")
        if path.parent.name.rpartition(".")[2].isdigit()
    ]
    if ended:
        last = max(ended, key=lambda path: int(path.parent.name.rpartition(".")[2]))
        text = last.read_text(encoding="utf-8").strip()
        return int(text) if text.isdigit() else None
    return ended_code(_folder(job, record))
