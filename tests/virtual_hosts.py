"""Virtual hosts: each its own network, process table, host name, /tmp and /dev/shm, joined by a
bridge; SLURM over them.

Killing a host's first process is its loss of power; taking its link down is a cut cable. Needs
root, and the right to make namespaces; `missing()` says what is not there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import slurm_daemons
from tests.places import ROOT
from tests.slurm_daemons import Daemons, shell, short_hostname

PROGRAMS = ("ip", "nsenter", "unshare", *slurm_daemons.PROGRAMS)
# Hosts have a /tmp of their own; what they need of this machine's: the checkout and Python's
# environment, if they are there.
NEEDED = sorted(
    {
        path
        for path in (ROOT, Path(sys.prefix), Path(sys.prefix).resolve())
        if path.is_relative_to("/tmp")
    }
)

# What a host runs first. Arguments: its name, its folder of /etc files, the folders to keep below
# /tmp, then the command.
INIT = """
name=$1 etc=$2 keep=$3; shift 3
for f in hosts nsswitch.conf resolv.conf; do [ -e /etc/$f ] && mount --bind $etc/$f /etc/$f; done
hostname $name; export HOSTNAME=$name
i=0; for d in $keep; do i=$((i+1)); mkdir -p $etc/keep$i
  mount --bind $d /mnt; mount --move /mnt $etc/keep$i 2>/dev/null ||
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
    if lacking := slurm_daemons.lacking(PROGRAMS):
        return f"programs: {', '.join(lacking)} (Debian: apt-get install slurm-wlm munge iproute2)"
    if os.geteuid() != 0:
        return "root"
    bridge = f"t{os.getpid()}"
    trials = {
        "namespaces": ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "true"],
        "network bridges": ["ip", "link", "add", bridge, "type", "bridge"],
    }
    lacking = [
        f"the right to make {what}"
        for what, command in trials.items()
        if shell(*command, check=False).returncode
    ]
    shell("ip", "link", "del", bridge, check=False)
    return ", ".join(lacking)


class Hosts:
    """A bridge with `count` virtual hosts n1, n2, ...; `folder` (below /tmp) is the file system
    that all of them see.
    """

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
        names = [f"{self.net}.1 {short_hostname()}"]
        names += [f"{self.address(i)} n{i}" for i in range(1, self.count + 1)]
        for i in range(1, self.count + 1):
            space = f"{self.tag}n{i}"
            link = f"{self.tag}v{i}"
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
        keep = [str(path) for path in (self.folder, *NEEDED)]
        init = [f"n{i}", str(self.folder / f"etc-n{i}"), " ".join(keep), *command]
        space = [
            "unshare",
            "--mount",
            "--uts",
            "--pid",
            "--ipc",
            "--fork",
            "--kill-child=SIGKILL",
            "--mount-proc",
        ]
        with log.open("ab") as out:
            self.inits[i] = subprocess.Popen(
                [
                    "nsenter",
                    f"--net=/run/netns/{self.tag}n{i}",
                    *space,
                    "bash",
                    "-c",
                    INIT,
                    "_",
                    *init,
                ],
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
        children = (
            Path(f"/proc/{self.inits[i].pid}/task/{self.inits[i].pid}/children").read_text().split()
        )
        flags = ["-m", "-u", "-i", "-n", "-p"]
        return shell("nsenter", "-t", children[0], *flags, *command, check=False).stdout

    def down(self):
        for i in self.inits:
            self.power_off(i)
        for i in range(1, self.count + 1):
            shell("ip", "netns", "del", f"{self.tag}n{i}", check=False)
        shell("ip", "link", "del", f"{self.tag}b", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Slurm(Hosts, Daemons):
    """SLURM on virtual hosts: the controller on this machine, one slurmd per host, two made-up GPUs
    and two cores each.
    """

    def start(self):
        self.up()
        hosts = range(1, self.count + 1)
        nodes = [f"n{i} NodeHostname=n{i} NodeAddr={self.address(i)} Gres=gpu:2" for i in hosts]
        self.configure(f"{self.net}.1", nodes)
        for gpu in (0, 1):
            os.mknod(self.folder / "etc" / f"gpu{gpu}", 0o020666, os.makedev(1, 3))
        gres = [f"NodeName=n{i} Name=gpu File={self.folder}/etc/gpu[0-1]" for i in hosts]
        (self.folder / "etc" / "gres.conf").write_text("\n".join(gres) + "\n")
        self.start_controller()
        for i in hosts:
            self.power_on(i)
        self.wait_idle()

    def power_on(self, i):
        self.boot(i, ["slurmd", "-D"], self.env, self.folder / "log" / f"host-n{i}.out")

    def stop(self):
        self.stop_controller()
        self.down()


if __name__ == "__main__":
    if lacking := missing():  # a code of its own: any other one is a fault of this file
        print(lacking)
        sys.exit(3)
