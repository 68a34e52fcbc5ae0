"""Atomic files: a name either does not exist or holds all of its bytes, also after a kill or a
power cut.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.errors import FormatError

Buffers = Sequence[bytes | memoryview]
PARTIAL = ".partial"
"""Suffix of everything that is not finished; a name with it can be deleted when no process is at
work.
"""

# What link(2) answers on a file system without hard links (FAT, some FUSE and object-store mounts).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: without it a new file can lose its name in a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_new(path: Path, data: Buffers, *, fsync: bool) -> None:
    """Write a file that must not exist yet; what a kill leaves behind is a shorter file under this
    name.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(fd, "wb", buffering=0) as file:
        for buffer in data:
            rest = memoryview(buffer).cast("B")
            while rest:
                rest = rest[file.write(rest) :]
        if fsync:
            os.fsync(file.fileno())


def write_once(path: Path, data: Buffers, *, fsync: bool, scratch: Path | None = None) -> bool:
    """Create a file whole and exclusively; return False, and leave it alone, when the name is
    taken.

    The bytes go to a temporary name in `scratch` (default: beside the file, same file system) and
    get the final name by link(2), which is atomic and fails when the name exists. Call
    `fsync_folder` on the parent for a durable name.
    """
    temporary = (scratch or path.parent) / f"{path.name}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        write_new(temporary, data, fsync=fsync)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise FormatError(
                f"{path.parent}: this file system cannot make hard links, which write-once files need; "
                "put the output on a local or POSIX shared disk"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return True


def replace(path: Path, data: Buffers, *, fsync: bool, scratch: Path | None = None) -> None:
    """Write a file whole by an atomic rename; a reader sees the old bytes or the new, never a
    mixture.
    """
    temporary = (scratch or path.parent) / f"{path.name}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        write_new(temporary, data, fsync=fsync)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if fsync:
        fsync_folder(path.parent)


@contextlib.contextmanager
def atomic_output(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success give it the final name, on any failure
    delete it.

    What killed processes of this machine left beside `path` for the same name is deleted first.
    Raises FormatError when `path` exists and `overwrite` is false, before and again at the end.
    """
    if path.exists() and not overwrite:
        raise FormatError(f"{path}: exists already; choose another name or ask for overwriting")
    if not path.parent.is_dir():
        raise FormatError(f"{path}: the folder {path.parent} does not exist; create it first")
    _sweep_dead(path)
    temporary = path.with_name(
        f".{path.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}{PARTIAL}"
    )
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _link_exclusive(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _machine() -> str:
    """Return what stands for the processes whose numbers can be asked for here."""
    namespace = Path("/proc/self/ns/pid")
    number = namespace.stat().st_ino if namespace.exists() else 0
    return f"{zlib.crc32(f'{os.uname().nodename} {number}'.encode()):08x}"


def _sweep_dead(path: Path) -> None:
    """Delete temporary files for `path` whose writer is dead; those of other machines are left
    alone.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_machine()}-*{PARTIAL}"):
        process = left.name.removeprefix(f".{path.name}.{_machine()}-").partition("-")[0]
        if process.isdecimal() and not _alive(int(process)):
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _link_exclusive(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FormatError(
            f"{path}: appeared while it was being written; choose another name"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.replace(temporary, path)  # without hard links a rename is the best there is


def sweep(folder: Path) -> int:
    """Delete unfinished files and folders directly inside `folder`; return how many.

    Call it only while no other process writes there (the driver, holding the run's lock).
    """
    stale = list(folder.glob(f"*{PARTIAL}")) if folder.is_dir() else []
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return len(stale)
