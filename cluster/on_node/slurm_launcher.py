"""One process per node of a SLURM job: rank 0 starts Ray's head and the driver, the others join and
rejoin.

    srun --ntasks-per-node=1 \\
        python -m cluster.on_node.slurm_launcher --folder ATTEMPT --restarts N -- DRIVER

Standard library only. The ranks meet in ATTEMPT, a folder that all nodes see: rank 0 leaves
`rendezvous.json` (address and token, mode 0600) there, beats in `head`, and writes the driver's
exit code to `exit`. A rank ends only what it started. Exit codes: the driver's; 70 when Ray did not
start.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from cluster.on_node.processes import (
    MARK,
    PAUSE,
    PREFIX,
    Pulse,
    ask,
    end_all,
    free_port,
    listens,
    own_address,
    own_job,
    short_temporary,
    sweep,
    visible,
    write_private,
)
from cluster.options.exit_codes import NO_RAY, RESUMABLE

HEAD_SECONDS = 180.0
RENDEZVOUS_SECONDS = 300.0
# How long the file system may refuse the driver's exit code, seconds.
EXIT_SECONDS = 20.0
# What a driver is left once SLURM ends the job: it kills all of us soon (KillWait, 30 s), and
# something is to be swept, seconds.
LAST_SECONDS = 5.0
# A head that has not beaten for so long is dead, seconds.
HEAD_SILENCE = float(os.environ.get("GIGARESTORE_HEAD_SILENCE", "120"))
BEAT = 2.0
REJOIN_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
# Nothing but names and reports is stored.
OBJECT_STORE = "100000000"
# Ray's own settings, where the environment does not say otherwise. (period + timeout) * threshold:
# a node whose cable was cut counts as dead after half a minute, not after 64 s. Workers have the
# nodes to themselves: no niceness.
SYSTEM = {
    "health_check_period_ms": "2000",
    "health_check_timeout_ms": "5000",
    "health_check_failure_threshold": "4",
    "health_check_initial_delay_ms": "5000",
    "worker_niceness": "0",
}


@dataclass(slots=True)
class Launcher:
    """What a rank has started and where."""

    folder: Path
    driver: list[str]
    rank: int
    restarts: int
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    sessions: set[int] = field(default_factory=set)
    stopped: bool = False
    began: float = field(default_factory=time.monotonic)
    temporary: Path = field(init=False)
    _lock: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        os.environ[MARK] = self.mark
        sweep()
        # Short: the path of a socket below it must fit into 107 bytes.
        fresh = Path(tempfile.mkdtemp(prefix=".gr-", dir=short_temporary()))
        self._lock = (fresh / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Under the name that `sweep` looks for only once it is locked.
        self.temporary = fresh.rename(
            fresh.with_name(f"{PREFIX}{os.getuid()}{fresh.name.removeprefix('.gr')}")
        )

    def run(self) -> int:
        """Do this rank's part; leave neither process nor file behind."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            return self._head() if self.rank == 0 else self._worker()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            end_all(self.mark, self.sessions)
            shutil.rmtree(self.temporary, ignore_errors=True)
            self._say("left")

    def _head(self) -> int:
        address = own_address()
        port = free_port()
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        for name, value in SYSTEM.items():
            os.environ.setdefault(f"RAY_{name}", value)
        ray = self._ray(
            "--head", "--port", str(port), "--include-dashboard", "false", address=address
        )
        if (
            not self._until(lambda: ray.poll() is not None or listens(address, port), HEAD_SECONDS)
            or ray.poll() is not None
        ):
            if self.stopped:
                return RESUMABLE
            self._say(f"Ray's head did not start; the end of its log:\n{self._tail()}")
            return NO_RAY
        meeting = {"address": f"{address}:{port}", "token": os.environ["RAY_AUTH_TOKEN"]}
        write_private(self.folder / "rendezvous.json", json.dumps(meeting))
        self._say(f"head at {meeting['address']} after {time.monotonic() - self.began:.1f} s")
        stop = self.folder / "stop"
        command = [
            *self.driver[: self.driver.index("--")],
            "--stop",
            str(stop),
            *self.driver[self.driver.index("--") :],
        ]
        driver = subprocess.Popen(
            command, env={**os.environ, "RAY_ADDRESS": meeting["address"]}, start_new_session=True
        )
        code = self._drive(driver, ray)
        if not self._until(lambda: self._write("exit", str(code)), EXIT_SECONDS):
            self._say(f"the driver's exit code cannot be written to {self.folder}")
        self._say(f"driver ended with {code}")
        return code

    def _write(self, name: str, text: str) -> bool:
        """Try to write a file for the other ranks: a full or stale file system must not end the
        attempt.
        """
        with contextlib.suppress(OSError):
            write_private(self.folder / name, text)
            return True
        return False

    def _drive(self, driver: subprocess.Popen[bytes], ray: subprocess.Popen[bytes]) -> int:
        stopped_at = float("inf")
        beats = 0
        last = -BEAT
        while driver.poll() is None:
            if time.monotonic() - last >= BEAT:
                last = time.monotonic()
                beats = beats + 1
                self._write("head", str(beats))
            if ray.poll() is not None:
                self._say(
                    f"Ray's head ended with {ray.returncode} under the driver; the end of its "
                    f"log:\n{self._tail()}"
                )
                driver.kill()
                driver.wait()
                return RESUMABLE
            if self.stopped and stopped_at == float("inf"):
                stopped_at = time.monotonic()
                driver.send_signal(signal.SIGTERM)
            if time.monotonic() - stopped_at > LAST_SECONDS:
                driver.kill()
            time.sleep(PAUSE)
        # A driver that a signal has killed left a resumable run.
        return driver.returncode if driver.returncode >= 0 else RESUMABLE

    def _worker(self) -> int:
        meeting = self.folder / "rendezvous.json"
        if not self._until(lambda: visible(meeting) or self._over(), RENDEZVOUS_SECONDS):
            if not self.stopped:
                self._say(
                    f"the head has left no address in {meeting} for {RENDEZVOUS_SECONDS:.0f} s"
                )
            return 0 if self.stopped else NO_RAY
        if self._over():
            return 0
        head = json.loads(meeting.read_text(encoding="utf-8"))
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=head["token"])
        host, _, port = head["address"].rpartition(":")
        pulse = Pulse(self.folder / "head", HEAD_SILENCE)
        tries = 0
        while not self._over():
            self._until(
                lambda: listens(host, int(port)) or self._over() or pulse.silent,
                RENDEZVOUS_SECONDS,
            )
            if pulse.silent:
                self._begin_again(pulse)
                continue
            began = time.monotonic()
            ended = self._join(head["address"], own_address(host))
            if ended is None:
                break
            tries = tries + 1 if time.monotonic() - began < 60 else 0
            self._say(
                f"Ray ended with {ended} on this node; joining again; the end of its "
                f"log:\n{self._tail()}"
            )
            end_all(self.mark, self.sessions)
            self._until(self._over, REJOIN_PAUSES[min(tries, len(REJOIN_PAUSES) - 1)])
        return 0

    def _begin_again(self, pulse: Pulse) -> None:
        """Have the job queued again: with --no-kill SLURM leaves it standing without the node of
        its script.

        Not while the controller does not answer, since then it is this node that is cut off, and
        not once the head is heard.
        """
        job = own_job()
        attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
        self._say(f"the head has not beaten for {HEAD_SILENCE:.0f} s")
        while pulse.silent and not self._over():
            if f" Restarts={attempt} " not in ask("scontrol", "show", "job", job):
                self._until(self._over, BEAT)
                continue
            self._until(lambda: self._over() or not pulse.silent, 5 * BEAT)
            if not pulse.silent or self._over():
                return
            if int(attempt) < self.restarts:
                ask("scontrol", "requeue", job)
            else:
                self._say(
                    f"begun again {attempt} times already; go on with: gigarestore resume "
                    f"slurm:{job.partition('_')[0]}"
                )
                ask("scancel", job)
            self._until(self._over, HEAD_SILENCE)

    def _join(self, head: str, address: str) -> int | None:
        """Run Ray here until the job is over; return its exit code when it ended by itself, as
        without a head it does.
        """
        ray = self._ray("--address", head, address=address)
        self._say(f"joins {head}")
        self._until(lambda: ray.poll() is not None or self._over(), float("inf"))
        return ray.poll()

    def _over(self) -> bool:
        return self.stopped or visible(self.folder / "exit")

    def _ray(self, *options: str, address: str) -> subprocess.Popen[bytes]:
        """Start `ray start --block` with what SLURM gave to this node; Ray itself would take the
        whole machine.
        """
        cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        gpus = os.environ.get("SLURM_GPUS_ON_NODE", "0")
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            *options,
            "--node-ip-address",
            address,
        ]
        command += ["--num-cpus", cpus, "--num-gpus", gpus, "--object-store-memory", OBJECT_STORE]
        command += [
            "--min-worker-port",
            "0",
            "--max-worker-port",
            "0",
            "--temp-dir",
            str(self.temporary / "r"),
        ]
        command += [
            "--dashboard-agent-listen-port",
            str(free_port()),
            "--disable-usage-stats",
            "--block",
        ]
        if "--head" in options and importlib.util.find_spec("grpc") is not None:
            command += ["--ray-client-server-port", str(free_port())]
        with self._log().open("ab") as log:
            return self._start(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, start_new_session=True, **options)
        self.sessions.add(process.pid)
        return process

    def _log(self) -> Path:
        return self.folder / f"ray-{self.rank}.log"

    def _tail(self) -> str:
        return self._log().read_bytes()[-2000:].decode(errors="replace")

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition; return False when time is up or the job is stopped."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.stopped or time.monotonic() > deadline:
                return False
            time.sleep(PAUSE)
        return True

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopped = True

    def _say(self, text: str) -> None:
        name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        print(f"gigarestore: node {self.rank} ({name}): {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Run this node's part of the job."""
    if arguments[0:3:2] != ["--folder", "--restarts"] or arguments[4:5] != ["--"]:
        raise SystemExit(
            "usage: python -m cluster.on_node.slurm_launcher --folder ATTEMPT --restarts N -- "
            "DRIVER"
        )
    rank = int(os.environ["SLURM_PROCID"])
    return Launcher(Path(arguments[1]), arguments[5:], rank, int(arguments[3])).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
