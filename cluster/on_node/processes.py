"""What a launcher needs of its node: addresses and ports, private files, and the end of what it
started.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from storage import atomic_files

MARK = "GIGARESTORE_RANK_MARK"
PREFIX = "gigarestore-"
# How long processes have to end once they are asked to, seconds.
GRACE = 3.0
PAUSE = 0.2


class Pulse:
    """Tell whether a file that is rewritten again and again has not been for long; clocks of nodes
    may differ.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self._text = ""
        self._changed = time.monotonic()

    @property
    def silent(self) -> bool:
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError:
            text = self._text
        if text != self._text:
            self._text = text
            self._changed = time.monotonic()
        return time.monotonic() - self._changed > self.seconds


def ask(*command: str) -> str:
    """Return what a program of SLURM says, nothing where it is missing or reaches no controller."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""


def own_job() -> str:
    """Return this job's name for scontrol: the number of an array's last task is that of the whole
    array.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def own_address(peer: str | None = None) -> str:
    """Return this node's address on the way to `peer`, or to the node that the job's script runs
    on; nothing is sent.
    """
    peer = peer or os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return str(probe.getsockname()[0])


def free_port() -> int:
    """Return a port that nobody listens on, below the range that outgoing connections use."""
    for _ in range(100):
        port = 20000 + secrets.randbelow(10000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError("no free port between 20000 and 30000")


def listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2.0):
        return True
    return False


def visible(path: Path) -> bool:
    """Tell whether a file is there; listing its folder makes NFS look again. What cannot be listed
    shows nothing.
    """
    with contextlib.suppress(OSError):
        return path.name in os.listdir(path.parent)
    return False


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads; it appears whole or not at all."""
    atomic_files.replace_text(path, text, fsync=False, mode=0o600)


def short_temporary() -> str:
    """Return the folder for temporary files, /tmp where its name is too long for sockets."""
    wanted = tempfile.gettempdir()
    return wanted if len(wanted) <= 24 else "/tmp"


def sweep() -> None:
    """Remove what launchers of this user left that were killed with their node's power; a living
    one holds its lock.
    """
    for path in Path(short_temporary()).glob(f"{PREFIX}{os.getuid()}-*"):
        with contextlib.suppress(OSError), (path / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)


def end_all(mark: str, sessions: set[int]) -> None:
    """End every process of ours but this one: first asked, then forced."""
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        deadline = time.monotonic() + seconds
        signalled = set[int]()
        while living := ours(mark, sessions):
            for pid in living - signalled:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            signalled |= living
            time.sleep(PAUSE)
            if time.monotonic() > deadline:
                break


def ours(mark: str, sessions: set[int]) -> set[int]:
    """Return the living processes of one of our sessions, or with our mark in their environment;
    without this one.

    Ray's agents write their title over their environment, and its workers are groups of their own:
    neither test alone finds all.
    """
    wanted = f"{MARK}={mark}".encode()
    pids = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z" and (
                int(session) in sessions or wanted in (folder / "environ").read_bytes().split(b"\0")
            ):
                pids.add(int(folder.name))
    return pids - {os.getpid()}
