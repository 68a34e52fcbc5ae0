"""A published image copied to an object store, so that nothing there looks like an image before it
is whole.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from storage.byte_source import obstore_for, redact, remote_store
from storage.errors import DamagedError, one_line

ROOT_METADATA = "zarr.json"


def try_target(url: str) -> None:
    """Write and delete a small object below `url`, so that a wrong address or right is known before
    a long run.

    Raises FormatError or DamagedError as `upload` does. Where nothing may be deleted the object
    stays.
    """
    name = redact(url)
    probe = ".gigarestore-probe"
    store, _ = remote_store(url, name, parent=False)
    _put(store, probe, b"", name)
    with contextlib.suppress(
        Exception
    ):  # every store raises errors of its own; writing is what matters
        obstore_for(name).delete(store, probe)


def upload(root: Path, url: str) -> tuple[int, int]:
    """Copy the published files of `root` to the prefix `url`; return the number of objects and of
    bytes.

    Hidden folders (the run's private state) and unfinished files stay behind; the root's metadata
    comes last. An object that is there is replaced. Raises FormatError on an unusable address,
    DamagedError when the store refuses.
    """
    name = redact(url)
    store, _ = remote_store(url, name, parent=False)
    count = size = 0
    for path in published(root):
        _put(store, path.relative_to(root).as_posix(), path, name)
        count = count + 1
        size = size + path.stat().st_size
    return count, size


def _put(store: Any, key: str, content: Path | bytes, name: str) -> None:
    try:
        obstore_for(name).put(store, key, content)
    except Exception as error:  # every store raises errors of its own
        raise DamagedError(f"{name}/{key}: cannot be written: {redact(one_line(error))}") from None


def published(root: Path) -> list[Path]:
    """Return the files of a published image, the root's metadata last. Raises FileNotFoundError
    without that.
    """
    last = root / ROOT_METADATA
    if not last.is_file():
        raise FileNotFoundError(f"{root} holds no published image")
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path != last)
    kept = [
        path
        for path in files
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    return [*(path for path in kept if path.suffix != ".partial"), last]
