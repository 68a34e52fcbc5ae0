"""Virtual hosts: each its own network, process table, host name, /tmp and /dev/shm, joined by a bridge; SLURM over them.

Killing a host's first process is its loss of power; taking its link down is a cut cable. Needs root, and the right to make
namespaces; `missing()` says what is not there.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("ip", "nsenter", "unshare", "slurmctld", "slurmd", "sbatch", "munged")

# What a host runs first. Arguments: its name, its folder of /etc files, the folders to keep below /tmp, then the command.
INIT = """
name=$1 etc=$2 keep=$3; shift 3
for f in hosts nsswitch.conf resolv.conf; do [ -e /etc/$f ] && mount --bind $etc/$f /etc/$f; done
hostname $name; export HOSTNAME=$name
i=0; for d in $keep; do i=$((i+1)); mkdir -p $etc/keep$i; mount --bind $d /mnt; mount --move /mnt $etc/keep$i 2>/dev/null ||
  { umount /mnt; mount --bind $d $etc/keep$i; }; done
exec 9<$etc
mount -t tmpfs tmpfs /tmp
i=0; for d in $keep; do i=$((i+1)); mkdir -p $d; mount -c --bind /proc/self/fd/9/keep$i $d; done
mount -t tmpfs -o size=2g tmpfs /dev/shm
trap : TERM
"$@" 9<&- & pid=$!
while kill -0 $pid 2>/dev/null; do wait $pid; done
"""


def missing():
    """Return what this machine lacks for virtual hosts with SLURM; an empty text when nothing."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"programs: {', '.join(lacking)} (Debian: apt-get install slurm-wlm munge iproute2)"
    if os.geteuid() != 0:
        return "root"
    bridge = f"t{os.getpid()}"
    trials = {
        "namespaces": ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "true"],
        "network bridges": ["ip", "link", "add", bridge, "type", "bridge"],
    }
    lacking = [
        f"the right to make {what}" for what, command in trials.items() if shell(*command, check=False).returncode
    ]
    shell("ip", "link", "del", bridge, check=False)
    return ", ".join(lacking)


def shell(*command, check=True, **options):
    return subprocess.run(list(map(str, command)), check=check, capture_output=True, text=True, timeout=60, **options)


class Hosts:
    """A bridge with `count` virtual hosts n1, n2, ...; `folder` (below /tmp) is the file system that all of them see."""

    def __init__(self, count):
        self.count = count
        self.folder = Path(tempfile.mkdtemp(prefix="gr-hosts-", dir="/tmp"))
        self.tag = f"g{os.getpid() % 100000}"
        self.net = f"10.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"
        self.inits = {}

    def address(self, i):
        return f"{self.net}.{10 + i}"

    def up(self):
        bridge = f"{self.tag}b"
        shell("ip", "link", "add", bridge, "type", "bridge")
        shell("ip", "addr", "add", f"{self.net}.1/24", "dev", bridge)
        shell("ip", "link", "set", bridge, "up")
        names = [f"{self.net}.1 {os.uname().nodename.partition('.')[0]}"]
        names += [f"{self.address(i)} n{i}" for i in range(1, self.count + 1)]
        for i in range(1, self.count + 1):
            space, link = f"{self.tag}n{i}", f"{self.tag}v{i}"
            shell("ip", "netns", "add", space)
            shell("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            shell("ip", "link", "set", link, "master", bridge, "up")
            shell("ip", "-n", space, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                shell("ip", "-n", space, "link", "set", device, "up")
            shell("ip", "-n", space, "route", "add", "default", "via", f"{self.net}.1")
            etc = self.folder / f"etc-n{i}"
            etc.mkdir()
            (etc / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(names) + "\n")
            (etc / "nsswitch.conf").write_text("hosts: files\npasswd: files\ngroup: files\n")
            (etc / "resolv.conf").write_text("")

    def boot(self, i, command, env, log):
        """Start host i with `command` as its only service."""
        keep = [str(self.folder)] + [str(ROOT)] * str(ROOT).startswith("/tmp/")
        init = [f"n{i}", str(self.folder / f"etc-n{i}"), " ".join(keep), *command]
        space = ["unshare", "--mount", "--uts", "--pid", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        with log.open("ab") as out:
            self.inits[i] = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.tag}n{i}", *space, "bash", "-c", INIT, "_", *init],
                env=env,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def power_off(self, i):
        """Kill host i: every process of it is gone at once."""
        self.inits[i].kill()
        self.inits[i].wait()

    def cut(self, i):
        shell("ip", "link", "set", f"{self.tag}v{i}", "down")

    def heal(self, i):
        shell("ip", "link", "set", f"{self.tag}v{i}", "up")

    def inside(self, i, *command):
        """Run a command on host i; return its stdout."""
        children = Path(f"/proc/{self.inits[i].pid}/task/{self.inits[i].pid}/children").read_text().split()
        flags = ["-m", "-u", "-i", "-n", "-p"]
        return shell("nsenter", "-t", children[0], *flags, *command, check=False).stdout

    def down(self):
        for i in self.inits:
            self.power_off(i)
        for i in range(1, self.count + 1):
            shell("ip", "netns", "del", f"{self.tag}n{i}", check=False)
        shell("ip", "link", "del", f"{self.tag}b", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


CONF = """\
ClusterName=ci
SlurmctldHost={host}({net}.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
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


class Slurm(Hosts):
    """SLURM on virtual hosts: the controller on this machine, one slurmd per host, two made-up GPUs and two cores each."""

    def start(self):
        self.up()
        for name in ("ctl", "spool", "log", "etc", "munge"):
            (self.folder / name).mkdir()
        for gpu in (0, 1):
            os.mknod(self.folder / "etc" / f"gpu{gpu}", 0o020666, os.makedev(1, 3))
        port = 30000 + os.getpid() % 20000
        conf = CONF.format(host=os.uname().nodename.partition(".")[0], net=self.net, port=port, d=self.folder)
        for i in range(1, self.count + 1):
            node = f"NodeName=n{i} NodeHostname=n{i} NodeAddr={self.address(i)}"
            conf += f"{node} CPUs=2 RealMemory=6000 Gres=gpu:2 State=UNKNOWN\n"
        conf += "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n"
        gres = [f"NodeName=n{i} Name=gpu File={self.folder}/etc/gpu[0-1]" for i in range(1, self.count + 1)]
        (self.folder / "etc" / "slurm.conf").write_text(conf)
        (self.folder / "etc" / "gres.conf").write_text("\n".join(gres) + "\n")
        self.env = {**os.environ, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        m = self.folder / "munge"
        where = ["-S", m / "sock", "--key-file", key, "--pid-file", m / "pid", "--log-file", m / "log"]
        shell("munged", "--force", *where, "--seed-file", m / "seed", "--num-threads", "2")
        shell("slurmctld", "-c", env=self.env)
        for i in range(1, self.count + 1):
            self.power_on(i)
        self.wait_idle()

    def power_on(self, i):
        self.boot(i, ["slurmd", "-D"], self.env, self.folder / "log" / f"host-n{i}.out")

    def wait_idle(self, seconds=60):
        deadline = time.monotonic() + seconds
        while len(self.ask("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()) < self.count:
            assert time.monotonic() < deadline, self.ask("sinfo", "-N") + self._logs()
            time.sleep(0.3)

    def ask(self, *command):
        return shell(*command, check=False, env=self.env).stdout

    def stop(self):
        shell("scancel", "--state=PENDING,RUNNING", "-f", "-u", "root", check=False, env=self.env)
        self.down_daemons()
        self.down()

    def down_daemons(self):
        for name in ("slurmctld.pid", "munge/pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGTERM)

    def _logs(self):
        return "\n".join(path.read_text()[-1500:] for path in (self.folder / "log").iterdir())


if __name__ == "__main__":
    sys.exit(missing() or 0)
