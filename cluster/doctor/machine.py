"""Checks of one machine: its GPUs, memory, disk, ports, and what the store's file system can do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from cluster.doctor.check import Check
from storage.errors import FormatError, LockedError

# Below these a run of any size is unlikely to end well, bytes.
LEAST_MEMORY = 2 << 30
LEAST_DISK = 2 << 30
LEAST_SHM = 256 << 20
# Where a Ray head listens unless it is told otherwise.
RAY_PORTS = {6379: "its head", 8265: "its dashboard", 10001: "its clients"}
# Ray opens about this many ports on a node of some cores.
LEAST_PORTS = 1000
# Times of a file server that differ by more make `ls` and logs misleading; nothing depends on them,
# seconds.
STORE_SKEW = 60.0
FILE_SYSTEM = "file system"
OTHER_FOLDER = "choose another folder for OUT"
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def gpus() -> list[Check]:
    """Compare the GPUs that the driver sees with those that torch can use."""
    import torch

    usable = []
    if torch.cuda.is_available():
        usable = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = [f"{p.name} ({p.total_memory / 1e9:.0f} GB)" for p in usable]
    return judge_gpus(nvidia_smi(), names, torch.version.cuda)


def nvidia_smi() -> list[str] | None:
    """Return "NAME, DRIVER" per GPU as the driver's own tool lists them; None where there is none,
    or it fails.
    """
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (
        [line.strip() for line in done.stdout.splitlines() if line.strip()]
        if done.returncode == 0
        else None
    )


def judge_gpus(listed: list[str] | None, usable: list[str], cuda: str | None) -> list[Check]:
    """Return the finding. listed: as the driver sees them; usable: as torch does; cuda: that torch
    was built for.
    """
    if usable:
        return [_usable_gpus(listed, usable, cuda)]
    if listed:
        return [_unusable_gpu(listed[0], cuda)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"none usable; {cores} CPU cores: keep to small images and the built-in network"
    return [Check("warn", "GPU", text)]


def _usable_gpus(listed: list[str] | None, usable: list[str], cuda: str | None) -> Check:
    driver = _driver(listed[0]) if listed else "unknown"
    text = f"{', '.join(usable)}; driver {driver}, CUDA {cuda}"
    if listed and len(listed) > len(usable):
        hidden = f"{len(listed)} are there: check CUDA_VISIBLE_DEVICES"
        return Check("warn", "GPU", f"{text}; {hidden}")
    return Check("ok", "GPU", text)


def _unusable_gpu(name: str, cuda: str | None) -> Check:
    """Say why torch cannot use the GPU that the driver sees."""
    if cuda is None:
        text = f"{name} is there, but this torch has no CUDA; install its CUDA build"
        return Check("fail", "GPU", text)
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        remedy = "unset CUDA_VISIBLE_DEVICES"
    else:
        remedy = f"update driver {_driver(name)}, or use an older torch"
    text = f"{name} is there, but torch (CUDA {cuda}) cannot use it; {remedy}"
    return Check("fail", "GPU", text)


def _driver(listed: str) -> str:
    """Return the driver's version of "NAME, DRIVER"."""
    return listed.rpartition(", ")[2]


def memory() -> list[Check]:
    """Look for room for a worker."""
    free = psutil.virtual_memory().available
    text = f"{free / 1e9:.1f} GB available"
    if free > LEAST_MEMORY:
        return [Check("ok", "memory", text)]
    return [Check("warn", "memory", f"{text}; start fewer --workers, or end other programs")]


def shared_memory() -> list[Check]:
    """Look for room for Ray's object store, which holds no pixels."""
    path = Path("/dev/shm")
    if not path.exists():
        return []
    free = shutil.disk_usage(path).free
    text = f"{free / 1e9:.1f} GB free in {path}"
    if free > LEAST_SHM:
        return [Check("ok", "shared memory", text)]
    return [
        Check(
            "warn", "shared memory", f"{text}, Ray will be slow; in a container give --shm-size=1g"
        )
    ]


def disk(store: Path) -> list[Check]:
    """Look for room for an output."""
    folder = _existing(store)
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free > LEAST_DISK:
        return [Check("ok", "disk", text)]
    return [
        Check(
            "warn",
            "disk",
            f"{text}; `gigarestore plan` says what an output takes, free some or choose another",
        )
    ]


def try_store(store: Path) -> list[Check]:
    """Do what a run does with the store's files: write once, replace, lock; compare its clock with
    ours.
    """
    folder = _existing(store)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".gigarestore-doctor-") as made:
            return _try_files(folder, Path(made))
    except (OSError, FormatError) as err:
        why = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        return [Check("fail", FILE_SYSTEM, f"{folder}: {why}; {OTHER_FOLDER}")]


def _try_files(folder: Path, made: Path) -> list[Check]:
    """Try a file and a lock in a folder that was made for it."""
    from storage import atomic_files as files

    path = made / "a"
    begun = time.time()
    written = files.write_once(path, [b"1"], fsync=True)
    if not written or files.write_once(path, [b"2"], fsync=False):
        text = f"{folder}: a name was given twice, files can be overwritten; {OTHER_FOLDER}"
        return [Check("fail", FILE_SYSTEM, text)]
    skew = path.stat().st_mtime - (begun + time.time()) / 2

    files.replace(path, [b"3"], fsync=True)
    names = [entry.name for entry in made.iterdir()]
    if path.read_bytes() != b"3" or names != ["a"]:
        text = f"{folder}: a rename did not replace the file; {OTHER_FOLDER}"
        return [Check("fail", FILE_SYSTEM, text)]

    text = f"{folder}: hard links, atomic renames and flush work"
    checks = [Check("ok", FILE_SYSTEM, text), _try_lock(folder, made / "lock")]
    if abs(skew) > STORE_SKEW:
        text = f"{folder}: its server's clock is {skew:+.0f} s off ours; set both by NTP"
        checks.append(Check("warn", "store clock", text))
    return checks


def _try_lock(folder: Path, path: Path) -> Check:
    """Lock a file twice."""
    from storage.run_store.run_lock import RunLock

    with RunLock(path):
        try:
            RunLock(path).release()
        except LockedError:
            return Check("ok", "locks", f"{folder}: a second driver is kept out")
    text = f"{folder} has no locks; start only one driver per output at a time"
    return Check("warn", "locks", text)


def ports() -> list[Check]:
    """See whether Ray would find ports."""
    try:
        low, high = map(int, PORT_RANGE.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        low = 0
        high = LEAST_PORTS
    if high - low < LEAST_PORTS:
        return [
            Check(
                "warn",
                "ports",
                f"only {high - low} for programs' own use; widen net.ipv4.ip_local_port_range",
            )
        ]
    taken = [f"{port} ({what})" for port, what in RAY_PORTS.items() if _listening(port)]
    if taken:
        text = (
            f"{', '.join(taken)} taken: a Ray head runs here, use it with --address, or start "
            "another with --port"
        )
        return [Check("warn", "ports", text)]
    return [Check("ok", "ports", f"{', '.join(map(str, RAY_PORTS))} are free for a Ray head")]


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _existing(path: Path) -> Path:
    """Return the nearest folder that is there already."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
