"""Checks of this machine, one line each: what was found, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

PACKAGES = ("kernels", "storage", "orchestrator", "cluster")
NEEDED = ("ray", "torch", "numpy", "zarr", "tifffile", "imagecodecs", "pydantic", "typer", "rich", "safetensors")
# Below these a run of any size is unlikely to end well, bytes.
LEAST_MEMORY, LEAST_DISK, LEAST_SHM = 2 << 30, 2 << 30, 256 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    verdict: Literal["ok", "warn", "fail"]
    name: str
    text: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def run_checks() -> list[Check]:
    """Return every check's finding, in the order in which a person would fix them."""
    checks: list[Callable[[], list[Check]]] = [_python, _versions, _shadowed, _device, _memory, _disk, _shm, _weights]
    return [finding for check in checks for finding in check()]


def _python() -> list[Check]:
    version = platform.python_version()
    return [Check("ok" if sys.version_info >= (3, 11) else "fail", "python", f"{version}, needs 3.11 or newer")]


def _versions() -> list[Check]:
    found, missing = [], []
    for name in NEEDED:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    checks = [Check("ok", "packages", ", ".join(found))]
    if missing:
        checks.append(Check("fail", "packages", f"missing: {', '.join(missing)}; pip install gigarestore"))
    return checks


def _shadowed() -> list[Check]:
    """Find another distribution that answers to one of our four import names (PyPI has a `kernels`, for one)."""
    home, checks = Path(__file__).resolve().parents[1], []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if where is None or where.parent != home:
            checks.append(
                Check(
                    "fail", "import names", f"{name!r} is taken by {where}; install gigarestore in its own environment"
                )
            )
    for name in PACKAGES:
        owners = set(importlib.metadata.packages_distributions().get(name, [])) - {"gigarestore"}
        if owners:
            text = f"{name!r} also belongs to {', '.join(sorted(owners))}; use an environment without it"
            checks.append(Check("fail", "import names", text))
    return checks or [Check("ok", "import names", f"{', '.join(PACKAGES)} are gigarestore's own")]


def _device() -> list[Check]:
    import torch

    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return [Check("warn", "GPU", f"none usable; {cores} CPU cores: small images and the built-in network only")]
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [Check("ok", "GPU", ", ".join(f"{p.name} ({p.total_memory / 1e9:.0f} GB)" for p in names))]


def _memory() -> list[Check]:
    free = psutil.virtual_memory().available
    return [Check("ok" if free > LEAST_MEMORY else "warn", "memory", f"{free / 1e9:.1f} GB available")]


def _disk() -> list[Check]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    checks = [Check("ok" if free > LEAST_DISK else "warn", "disk", f"{free / 1e9:.1f} GB free in {here}")]
    try:
        with tempfile.TemporaryDirectory(dir=here) as folder:
            first, second = Path(folder, "a"), Path(folder, "b")
            first.write_bytes(b"x")
            os.link(first, second)
            first.replace(second)
        checks.append(Check("ok", "file system", "atomic rename and hard links work here"))
    except OSError as err:
        text = f"{here}: {err.strerror}; outputs need rename and hard links, choose another folder for OUT"
        checks.append(Check("fail", "file system", text))
    return checks


def _shm() -> list[Check]:
    path = Path("/dev/shm")
    if not path.exists():
        return []
    free = shutil.disk_usage(path).free
    text = f"{free / 1e9:.1f} GB free in {path}, for Ray (it holds no pixels)"
    return [Check("ok" if free > LEAST_SHM else "warn", "shared memory", text)]


def _weights() -> list[Check]:
    from kernels.catalog import describe

    try:
        return [Check("ok", "built-in network", f"content {describe('builtin').content[:12]}")]
    except ValueError as err:
        return [Check("fail", "built-in network", str(err))]
