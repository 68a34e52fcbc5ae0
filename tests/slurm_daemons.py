"""SLURM's own daemons under this user: its controller with munge, and one node on this machine's
loopback.

Nothing here needs root, a network or the machine's own configuration.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "munged")

CONF = """\
ClusterName=ci
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={d}/munge/sock,cred_expire=5
StateSaveLocation={d}/ctl
SlurmdSpoolDir={d}/spool/%n
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/spool/%n.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmdLogFile={d}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=20
KillWait=15
MinJobAge=600
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=1
BatchStartTimeout=10
MessageTimeout=5
JobRequeue=1
GresTypes=gpu
"""


def lacking(programs=PROGRAMS):
    """Return the programs that are not on this machine."""
    return [name for name in programs if shutil.which(name) is None]


def shell(*command, check=True, **options):
    return subprocess.run(
        list(map(str, command)), check=check, capture_output=True, text=True, timeout=60, **options
    )


def counted(folder, programs=("squeue", "sacct", "scontrol")):
    """Put programs into a folder that note their calls in its file `calls` and then are the real
    ones.
    """
    folder.mkdir()
    for name in programs:
        real = shutil.which(name)
        (folder / name).write_text(
            f'#!/bin/bash\necho "{name} $*" >> {folder}/calls\nexec {real} "$@"\n'
        )
        (folder / name).chmod(0o755)
    return folder


def calls(folder):
    """Return which programs were called since this was asked for last, in order, with
    their words.
    """
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


class Daemons:
    """A controller and `count` nodes, whose files lie in `folder`."""

    def configure(self, address, nodes):
        """Write the configuration; nodes: what follows NodeName= of each."""
        for name in ("ctl", "spool", "log", "etc", "munge"):
            (self.folder / name).mkdir()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        host = f"{short_hostname()}({address})"
        conf = CONF.format(host=host, user=self.user, port=self.port, d=self.folder)
        conf += "".join(f"NodeName={node} CPUs=2 RealMemory=6000 State=UNKNOWN\n" for node in nodes)
        conf += (
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n"
        )
        (self.folder / "etc" / "slurm.conf").write_text(conf)
        self.env = {**os.environ, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def start_controller(self):
        m = self.folder / "munge"
        (m / "key").write_bytes(os.urandom(128))
        (m / "key").chmod(0o600)
        where = [
            "-S",
            m / "sock",
            "--key-file",
            m / "key",
            "--pid-file",
            m / "pid",
            "--log-file",
            m / "log",
        ]
        shell("munged", "--force", *where, "--seed-file", m / "seed", "--num-threads", "2")
        shell("slurmctld", "-c", env=self.env)

    @property
    def port(self):
        """Return the controller's port; a node on the same machine has the next one."""
        return 30000 + os.getpid() % 10000 * 2

    def wait_idle(self, seconds=60):
        deadline = time.monotonic() + seconds
        while len(self.ask("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()) < self.count:
            assert time.monotonic() < deadline, self.ask("sinfo", "-N") + self.logs()
            time.sleep(0.3)

    def cancel_all(self):
        self.ask("scancel", "--user", self.user)

    def ask(self, *command):
        return shell(*command, check=False, env=self.env).stdout

    def stop_controller(self):
        """End all jobs and the daemons, which write until they are gone."""
        self.cancel_all()
        for name in ("slurmctld.pid", "munge/pid"):
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.folder / name).read_text())
                deadline = time.monotonic() + 20
                os.kill(pid, signal.SIGTERM)
                while time.monotonic() < deadline:
                    os.kill(pid, 0)
                    time.sleep(0.1)

    def logs(self):
        return "\n".join(path.read_text()[-1500:] for path in (self.folder / "log").iterdir())


class Loopback(Daemons):
    """A controller and one node, both on 127.0.0.1; as any user."""

    count = 1

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gr-slurm-", dir="/tmp"))

    def start(self):
        """Start all; AssertionError or CalledProcessError with what the daemons say where this user
        may not.
        """
        self.configure(
            "127.0.0.1",
            [f"n1 NodeHostname={short_hostname()} NodeAddr=127.0.0.1 Port={self.port + 1}"],
        )
        self.start_controller()
        self.node = subprocess.Popen(
            ["slurmd", "-D", "-N", "n1"],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait_idle(20)

    def stop(self):
        with contextlib.suppress(AttributeError):  # it did not come so far
            self.stop_controller()
            self.node.terminate()
            self.node.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


def short_hostname():
    return os.uname().nodename.partition(".")[0]
