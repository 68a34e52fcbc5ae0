"""What every backend can do, the errors they share, and running their programs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Protocol

from cluster.submission.handles import Handle, JobStatus, SubmissionRecord
from cluster.submission.submission import Submission
from orchestrator.errors import PlanError


class Unreachable(RuntimeError):
    """A scheduler that does not answer: nothing is known, and nothing has failed (exit code 69)."""


class Backend(Protocol):
    """A scheduler."""

    def render(self, submission: Submission) -> str:
        """Return the complete script or manifest; touches nothing."""
        ...

    def check(self, submission: Submission) -> str:
        """Ask the scheduler whether it would take the submission; raises PlanError when it would
        not.
        """
        ...

    def submit(self, submission: Submission) -> Handle:
        """Hand the submission in."""
        ...

    def state(self, handle: Handle, record: SubmissionRecord | None) -> JobStatus:
        """Say where a run is; raises Unreachable."""
        ...

    def logs(self, handle: Handle, record: SubmissionRecord | None, follow: bool) -> Iterator[str]:
        """Yield the log in pieces; with `follow` until the run has ended."""
        ...

    def cancel(self, handle: Handle, record: SubmissionRecord | None, grace: float) -> str:
        """End a run, gently for up to `grace` seconds; return what was done."""
        ...


def call(command: list[str], text: str | None = None, timeout: float = 60.0) -> str:
    """Run a scheduler's program; return its stdout. Raises Unreachable on silence, PlanError on a
    refusal.
    """
    done = attempt(command, text, timeout)
    if done.returncode:
        raise PlanError(f"{command[0]} refuses: {one_line(done.stderr or done.stdout)}")
    return done.stdout


def attempt(
    command: list[str], text: str | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a scheduler's program to its end, whatever that is; raises Unreachable where there is
    none or it hangs.
    """
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise Unreachable(
            f"there is no {command[0]} on this machine; submit where the scheduler's programs are"
        ) from None
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"{command[0]} has not answered for {timeout:.0f} s; try again later"
        ) from None
    if done.returncode and any(sign in done.stderr for sign in SILENCES):
        last = done.stderr.strip().rpartition("\n")[2]  # kubectl's earlier lines are its own log
        raise Unreachable(
            f"{command[0]} cannot reach its server: {one_line(last)}; try again later"
        )
    return done


SILENCES = (
    "Socket timed out",
    "Unable to contact slurm controller",
    "Connection refused",
    "connection refused",
    "Unable to connect to the server",
    "was refused - did you specify the right host",
    "i/o timeout",
)


def one_line(text: str) -> str:
    return " ".join(text.split())[:400]
