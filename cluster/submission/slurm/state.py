"""What SLURM's programs say of a job, or of an array and all its tasks: each is asked once, and
only when it is needed.

squeue forgets a job after minutes; accounting may be switched off or days behind, and has the dead
attempts of a requeued job under the same id.
"""

from __future__ import annotations

import re
from functools import cached_property

from cluster.submission.backend import Unreachable, attempt
from cluster.submission.handles import JobState, JobStatus

STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "REQUEUED": JobState.REQUEUED,
    "REQUEUE_HOLD": JobState.REQUEUED,
    "REQUEUE_FED": JobState.REQUEUED,
    "SPECIAL_EXIT": JobState.REQUEUED,
    "RESV_DEL_HOLD": JobState.PENDING,
    "COMPLETED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "CANCELLED": JobState.CANCELLED,
    "PREEMPTED": JobState.INTERRUPTED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "NODE_FAIL": JobState.NODE_FAIL,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
}
# Jobs that SLURM accepts and that will never run as they are.
HOPELESS = (
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "DependencyNeverSatisfied",
    "BadConstraints",
    "PartitionConfig",
)


class Answers:
    """What is said of a job: of one named by an array's number also of each of its tasks, by name
    (ARRAY_TASK).
    """

    def __init__(self, job: str) -> None:
        self.job = job

    @cached_property
    def squeue(self) -> dict[str, JobStatus]:
        """What the queue says; nothing once it has forgotten the job. Raises Unreachable when
        nobody answers.
        """
        done = attempt(
            [
                "squeue",
                "--noheader",
                "--array",
                "--states=all",
                f"--jobs={self.job}",
                "--format=%i|%T|%r",
            ]
        )
        return {} if done.returncode else parse_squeue(done.stdout)

    @cached_property
    def sacct(self) -> dict[str, JobStatus]:
        """What the accounting says, where there is one."""
        return parse_sacct(
            _said(
                [
                    "sacct",
                    "-n",
                    "-P",
                    "-X",
                    "-D",
                    "-j",
                    self.job,
                    "-o",
                    "JobID,State,ExitCode,Reason",
                ]
            )
        )

    @cached_property
    def scontrol(self) -> dict[str, JobStatus]:
        """What the controller still knows."""
        return parse_scontrol(_said(["scontrol", "--oneliner", "show", "job", self.job]))

    def ended(self, job: str) -> JobStatus | None:
        """Return the state of a job that the queue has forgotten."""
        return self.sacct.get(job) or self.scontrol.get(job)

    def exit_code(self, job: str) -> int | None:
        """Return the code that a job ended with."""
        if (status := self.scontrol.get(job)) is None or status.code is None:
            status = self.sacct.get(job)
        return None if status is None else status.code


def _said(command: list[str]) -> str:
    """Return what one of the programs says that a machine may do without; nothing when it fails."""
    try:
        done = attempt(command)
    except Unreachable:
        return ""
    return "" if done.returncode else done.stdout


def parse_squeue(text: str) -> dict[str, JobStatus]:
    """Return the states of jobs from lines ID|STATE|REASON."""
    jobs = {}
    for line in text.splitlines():
        identity, _, rest = line.strip().partition("|")
        name, _, reason = rest.partition("|")
        if identity and name:
            state = STATES.get(name, JobState.UNKNOWN)
            said = "" if reason in ("None", "") else reason
            if state is JobState.PENDING and reason in HOPELESS:
                said = f"{reason}: it will never start like this; cancel it and change the options"
            jobs[identity] = JobStatus(state, None, said)
    return jobs


def parse_sacct(text: str) -> dict[str, JobStatus]:
    """Return the states of jobs' last attempts from lines JobID|State|ExitCode|Reason; earlier ones
    read REQUEUED.
    """
    jobs: dict[str, JobStatus] = {}
    for line in text.splitlines():
        identity, *fields = line.strip().split("|")
        if not identity or len(fields) < 2:
            continue
        state = STATES.get(fields[0].split(" ")[0], JobState.UNKNOWN)  # CANCELLED by 1000
        if identity not in jobs or state is not JobState.REQUEUED:
            jobs[identity] = JobStatus(
                state, parse_exit(fields[1]), "" if fields[2:] in ([], ["None"]) else fields[2]
            )
    return jobs


def parse_scontrol(text: str) -> dict[str, JobStatus]:
    """Return the states of jobs from `scontrol --oneliner show job`, a line each; tasks that wait
    together have none.
    """
    jobs = {}
    for line in text.splitlines():
        facts = dict(
            reversed(re.findall(r"(\w+)=(\S*)", line))
        )  # the first wins: a command may hold anything
        if not {"JobId", "JobState"} <= set(facts):
            continue
        task = (
            f"{facts.get('ArrayJobId')}_{facts['ArrayTaskId']}"
            if "ArrayTaskId" in facts
            else facts["JobId"]
        )
        state = STATES.get(facts["JobState"], JobState.UNKNOWN)
        jobs[task] = JobStatus(
            state, parse_exit(facts.get("ExitCode", "")), facts.get("Reason", "")
        )
    return jobs


def parse_exit(text: str) -> int | None:
    """Return the exit code of CODE:SIGNAL, as a shell states it."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return None
    return int(match[1]) if match[2] == "0" else 128 + int(match[2])
