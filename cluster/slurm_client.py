"""SLURM by its own programs: sbatch, squeue, sacct, scontrol, scancel. "Unknown" is never "failed".

The state is asked of squeue, then of the run's own files, then of sacct and scontrol: accounting may be switched off or
days behind, squeue forgets a job after minutes, and a requeued job has its dead attempts in sacct under the same id.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.backends import Unreachable, attempt, call, one_line
from cluster.follow import follow_files
from cluster.handles import RESUMABLE, Found, Handle, Record, State, ended_code
from cluster.slurm import render
from cluster.submission import MANIFEST, SHARE, Submission
from orchestrator.errors import PlanError

STATES = {
    "PENDING": State.PENDING,
    "CONFIGURING": State.PENDING,
    "RUNNING": State.RUNNING,
    "COMPLETING": State.RUNNING,
    "SUSPENDED": State.RUNNING,
    "STAGE_OUT": State.RUNNING,
    "SIGNALING": State.RUNNING,
    "STOPPED": State.RUNNING,
    "RESIZING": State.RUNNING,
    "REQUEUED": State.REQUEUED,
    "REQUEUE_HOLD": State.REQUEUED,
    "REQUEUE_FED": State.REQUEUED,
    "SPECIAL_EXIT": State.REQUEUED,
    "RESV_DEL_HOLD": State.PENDING,
    "COMPLETED": State.SUCCEEDED,
    "FAILED": State.FAILED,
    "BOOT_FAIL": State.NODE_FAIL,
    "CANCELLED": State.CANCELLED,
    "PREEMPTED": State.INTERRUPTED,
    "REVOKED": State.CANCELLED,
    "TIMEOUT": State.TIMEOUT,
    "DEADLINE": State.TIMEOUT,
    "NODE_FAIL": State.NODE_FAIL,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
}
# Jobs that SLURM accepts and that will never run as they are.
HOPELESS = ("PartitionNodeLimit", "PartitionTimeLimit", "DependencyNeverSatisfied", "BadConstraints", "PartitionConfig")
POLL = 2.0


class SlurmBackend:
    """Submit to the SLURM that the programs on PATH belong to."""

    def render(self, submission: Submission) -> str:
        return render(submission)

    def check(self, submission: Submission) -> str:
        done = attempt(["sbatch", "--test-only"], render(submission))
        if done.returncode:
            raise PlanError(f"sbatch refuses: {one_line(done.stderr)}; change the named option")
        return one_line(done.stderr or done.stdout)

    def submit(self, submission: Submission) -> Handle:
        text, folder = render(submission), Path(submission.folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if submission.manifest is not None:
            (folder / MANIFEST).write_text(submission.manifest, encoding="utf-8")
        script = folder / "job.sh"
        script.write_text(text, encoding="utf-8")
        # A time-out here may hide a job that was accepted: its name is unique, so it can be looked for.
        answer = call(["sbatch", "--parsable", f"--comment=gigarestore {submission.run_id}", str(script)])
        match = re.fullmatch(r"(\d+)(;\S+)?", answer.strip())
        if match is None:
            raise Unreachable(f"sbatch answered {one_line(answer)!r} instead of a job id; look with squeue --me")
        return Handle("slurm", match[1])

    def state(self, handle: Handle, record: Record | None) -> Found:
        asked = _squeue(handle.rest)
        return together([_settle(job, parse_squeue(asked, job), record) for job in _jobs(handle, record)])

    def logs(self, handle: Handle, record: Record | None, follow: bool) -> Iterator[str]:
        if record is None or record.folder is None:
            raise PlanError(f"the log of {handle} lies beside its OUT, which this machine does not see")
        paths = [record.folder / f"{job}.log" for job in _jobs(handle, record)]
        return follow_files(paths, (lambda: self.state(handle, record).state.ended) if follow else (lambda: True))

    def cancel(self, handle: Handle, record: Record | None, grace: float) -> str:
        found = self.state(handle, record)
        if found.state.ended:
            return f"{handle} has already ended: {found.state}"
        gentle, folder = found.state is State.RUNNING, _folder(handle.rest, record, within="_" in handle.rest)
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


def _jobs(handle: Handle, record: Record | None) -> list[str]:
    """Return the names of a submission's jobs: those of all tasks for the handle of an array."""
    shares = None if record is None else record.submission(record.run_id).shares
    if shares is None or "_" in handle.rest:
        return [handle.rest]
    return [f"{handle.rest}_{task}" for task in range(1, shares + 1)]


def _folder(job: str, record: Record | None, *, within: bool = True) -> Path | None:
    """Return the folder in which a job's driver beats, where this machine sees it; not within: that of all tasks."""
    _, _, task = job.partition("_")
    if record is None or record.folder is None:
        return None
    return record.folder / f"{SHARE}{task}" if task and within else record.folder


def _settle(job: str, queued: Found | None, record: Record | None) -> Found:
    """Return the state of one job, by squeue's answer and whoever else may know."""
    if queued is not None and not queued.state.ended:
        return queued
    code = _own_code(job, record)
    found = queued or _sacct(job) or _scontrol(job)
    if found is None or found.state is State.UNKNOWN:
        if code is None:
            return Found(State.UNKNOWN, None, "SLURM no longer knows the job, and it left no exit code")
        found = Found(State.FAILED if code else State.SUCCEEDED)
    if found.state is State.FAILED:
        code = code if code is not None else _exit_code(job)
        if code == RESUMABLE:
            places = [_folder(job, record, within=within) for within in (True, False)]
            cancelled = any(place is not None and (place / "cancel").exists() for place in places)
            return Found(State.CANCELLED if cancelled else State.INTERRUPTED, code)
    return Found(found.state, 0 if found.state is State.SUCCEEDED else code, found.reason)


def together(found: list[Found]) -> Found:
    """Return the state of an array from those of its tasks: under way while one is, else what is wrong with those that are."""
    if len(found) == 1:
        return found[0]
    ended = sum(task.state.ended for task in found)
    for state in (State.RUNNING, State.REQUEUED, State.PENDING, State.UNKNOWN):
        if reasons := [task.reason for task in found if task.state is state]:
            said = next(filter(None, reasons), "")
            return Found(state, None, f"{ended} of {len(found)} shares have ended{f', {said}' if said else ''}")
    bad = [task for task in found if task.state is not State.SUCCEEDED]
    if not bad:
        return Found(State.SUCCEEDED, 0)
    states, codes = {task.state for task in bad}, {task.exit_code for task in bad}
    said = f"{len(bad)} of {len(found)} shares"
    if len(states) == 1 and len(codes) == 1:
        return Found(states.pop(), codes.pop(), said)
    return Found(State.INTERRUPTED, RESUMABLE, said) if codes == {RESUMABLE} else Found(State.FAILED, 1, said)


def _squeue(job: str) -> str:
    """Return what squeue says of a job and, of an array, of each of its tasks; nothing once it has forgotten it."""
    done = attempt(["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%i|%T|%r"])
    return "" if done.returncode else done.stdout


def parse_squeue(text: str, job: str) -> Found | None:
    """Return the state of a job from lines ID|STATE|REASON; None where it is not named."""
    for line in text.splitlines():
        identity, _, rest = line.strip().partition("|")
        name, _, reason = rest.partition("|")
        if identity == job and name:
            state = STATES.get(name, State.UNKNOWN)
            said = "" if reason in ("None", "") else reason
            if state is State.PENDING and reason in HOPELESS:
                said = f"{reason}: it will never start like this; cancel it and change the options"
            return Found(state, None, said)
    return None


def _sacct(job: str) -> Found | None:
    try:
        done = attempt(["sacct", "-n", "-P", "-X", "-D", "-j", job, "-o", "JobID,State,ExitCode,Reason"])
    except Unreachable:
        return None
    return None if done.returncode else parse_sacct(done.stdout, job)


def parse_sacct(text: str, job: str) -> Found | None:
    """Return the state of a job's last attempt from lines JobID|State|ExitCode|Reason; earlier ones read REQUEUED."""
    found = None
    for line in text.splitlines():
        identity, *fields = line.strip().split("|")
        if identity != job or len(fields) < 2:
            continue
        state = STATES.get(fields[0].split(" ")[0], State.UNKNOWN)  # CANCELLED by 1000
        if found is None or state is not State.REQUEUED:
            found = Found(state, parse_exit(fields[1]), "" if fields[2:] in ([], ["None"]) else fields[2])
    return found


def _scontrol(job: str) -> Found | None:
    try:
        done = attempt(["scontrol", "--oneliner", "show", "job", job])
    except Unreachable:
        return None
    return None if done.returncode else parse_scontrol(done.stdout)


def parse_scontrol(text: str) -> Found | None:
    """Return the state from `scontrol show job`."""
    facts = dict(reversed(re.findall(r"(\w+)=(\S*)", text)))  # the first wins: a command may hold anything
    if "JobState" not in facts:
        return None
    return Found(
        STATES.get(facts["JobState"], State.UNKNOWN), parse_exit(facts.get("ExitCode", "")), facts.get("Reason", "")
    )


def parse_exit(text: str) -> int | None:
    """Return the exit code of CODE:SIGNAL, as a shell states it."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return None
    return int(match[1]) if match[2] == "0" else 128 + int(match[2])


def _exit_code(job: str) -> int | None:
    for found in (_scontrol(job), _sacct(job)):
        if found is not None and found.code is not None:
            return found.code
    return None


def _own_code(job: str, record: Record | None) -> int | None:
    """Return the exit code that the run itself left, of the job's last attempt."""
    if record is None or record.folder is None:
        return None
    ended = [path for path in record.folder.glob(f"{job}.*/exit") if path.parent.name.rpartition(".")[2].isdigit()]
    if ended:
        last = max(ended, key=lambda path: int(path.parent.name.rpartition(".")[2]))
        text = last.read_text(encoding="utf-8").strip()
        return int(text) if text.isdigit() else None
    return ended_code(_folder(job, record))
