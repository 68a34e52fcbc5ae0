"""The code that a submission takes along: folders of our four packages, without what is not code.

Folders, because Ray names those by their content; a wheel it names by its file name, so that a
rebuilt one of the same version would run the old code.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.errors import PlanError

PACKAGES = ("kernels", "storage", "orchestrator", "cluster")
# The Jobs API refuses uploads of 100 MiB (104857600 bytes).
LIMIT = 100 * 1024**2
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.partial")


def pack(target: Path, source: Path | None = None, limit: int = LIMIT) -> list[Path]:
    """Copy the packages below `target`; return their folders. Raises PlanError for one beyond
    `limit` bytes.
    """
    root = source or Path(__file__).resolve().parents[2]
    folders = []
    for name in PACKAGES:
        folder = target / name
        shutil.copytree(root / name, folder, ignore=LEFT_OUT)
        files = sorted(
            (path for path in folder.rglob("*") if path.is_file()),
            key=lambda path: -path.stat().st_size,
        )
        size = sum(path.stat().st_size for path in files)
        if size >= limit:
            raise PlanError(
                f"{root / name} is {size / 1e6:.0f} MB, the Jobs API takes less than "
                f"{limit / 1e6:.0f} MB; the largest: "
                f"{files[0].relative_to(target)}; move it out, or install gigarestore on the "
                "cluster and give --no-ship"
            )
        folders.append(folder)
    return folders
