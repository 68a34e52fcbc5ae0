"""A published image copied to an object store: nothing looks like an image before it is whole."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from storage.atomic_files import PARTIAL
from storage.byte_source import obstore_for, redact, remote_store
from storage.errors import DamagedError, one_line

ROOT_METADATA = "zarr.json"
PROBE = ".gigarestore-probe"
"""Key of the object that a try writes."""


def try_target(url: str) -> None:
    """Write and delete a small object below `url`: a wrong address shows before a long run.

    Raises FormatError or DamagedError as `upload` does. Where nothing may be deleted the object
    stays.
    """
    name = redact(url)
    store, _ = remote_store(url, name, parent=False)
    _put(store, PROBE, b"", name)
    # Every store raises errors of its own; writing is what matters.
    with contextlib.suppress(Exception):
        obstore_for(name).delete(store, PROBE)


def upload(root: Path, url: str) -> tuple[int, int]:
    """Copy the published files of `root` to the prefix `url`; return numbers of objects and bytes.

    Hidden folders (the run's private state) and unfinished files stay behind; the root's metadata
    comes last. An object that is there is replaced. Raises FormatError on an unusable address,
    DamagedError when the store refuses.
    """
    name = redact(url)
    store, _ = remote_store(url, name, parent=False)
    paths = published(root)
    total_bytes = 0
    for path in paths:
        key = path.relative_to(root).as_posix()
        _put(store, key, path, name)
        total_bytes += path.stat().st_size
    return len(paths), total_bytes


def _put(
    store: Any,
    key: str,
    content: Path | bytes,
    name: str,
) -> None:
    try:
        obstore_for(name).put(store, key, content)
    except Exception as error:  # every store raises errors of its own
        reason = redact(one_line(error))
        raise DamagedError(f"{name}/{key}: cannot be written: {reason}") from None


def published(root: Path) -> list[Path]:
    """Return the files of a published image, the root's metadata last.

    Raises FileNotFoundError without that.
    """
    last = root / ROOT_METADATA
    if not last.is_file():
        raise FileNotFoundError(f"{root} holds no published image")
    files = []
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        finished = path.suffix != PARTIAL
        if path.is_file() and path != last and finished and not hidden:
            files.append(path)
    return [*files, last]
