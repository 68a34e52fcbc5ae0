"""Checks of this machine and of a cluster's nodes, one line each: what was found, and what to do
about it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.doctor.check import Check

PACKAGES = ("kernels", "storage", "orchestrator", "cluster")
NEEDED = (
    "ray",
    "torch",
    "numpy",
    "zarr",
    "tifffile",
    "imagecodecs",
    "pydantic",
    "typer",
    "rich",
    "safetensors",
)


def run_checks(store: Path | None = None) -> list[Check]:
    """Return every check's finding for this machine, in the order in which to fix them."""
    from cluster.doctor.machine import disk, gpus, memory, ports, shared_memory, try_store

    where = (store or Path.cwd()).absolute()
    checks: list[Callable[[], list[Check]]] = [
        *(_python, _versions, _code, _shadowed, gpus, memory, shared_memory),
        *(lambda: disk(where), lambda: try_store(where), ports, _weights),
    ]
    return [finding for check in checks for finding in check()]


def _python() -> list[Check]:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    return [
        Check("ok", "python", version)
        if good
        else Check("fail", "python", f"{version}; install 3.11 or newer")
    ]


def _versions() -> list[Check]:
    installed = []
    missing = []
    for name in NEEDED:
        try:
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    checks = [Check("ok", "packages", ", ".join(installed))]
    if missing:
        checks.append(
            Check("fail", "packages", f"missing: {', '.join(missing)}; pip install gigarestore")
        )
    return checks


def _code() -> list[Check]:
    """Name the code by its content: two nodes whose versions agree may still run different code."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return [Check("ok", "code", f"{digest.hexdigest()[:12]} in {root}")]


def _shadowed() -> list[Check]:
    """Find another distribution that answers to one of our four import names (PyPI has a `kernels`,
    for one).
    """
    home = Path(__file__).resolve().parents[2]
    checks = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if where is None or where.parent != home:
            checks.append(
                Check(
                    "fail",
                    "import names",
                    f"{name!r} is taken by {where}; install gigarestore in its own environment",
                )
            )
    for name in PACKAGES:
        owners = set(importlib.metadata.packages_distributions().get(name, [])) - {"gigarestore"}
        if owners:
            text = (
                f"{name!r} also belongs to {', '.join(sorted(owners))}; use an environment "
                "without it"
            )
            checks.append(Check("fail", "import names", text))
    return checks or [Check("ok", "import names", f"{', '.join(PACKAGES)} are gigarestore's own")]


def _weights() -> list[Check]:
    from kernels.denoisers.denoiser_registry import describe

    try:
        return [Check("ok", "built-in network", f"content {describe('builtin').content[:12]}")]
    except ValueError as err:
        return [Check("fail", "built-in network", f"{err}; install gigarestore again")]
