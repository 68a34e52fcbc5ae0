"""Atomic files: a name either does not exist or holds all of its bytes, also after a kill.

Everything in this program that writes a temporary file and renames it does so here. With `fsync`
the bytes, and then the name, also survive a power cut.
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
"""Suffix of what is not finished; such a name can be deleted when no process is at work."""

# What link(2) answers on a file system without hard links (FAT, some FUSE and object-store mounts).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# What a new file may be read and written by, before the process's umask.
_FILE_MODE = 0o666


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: without it a power cut can take a new file's name."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_new(
    path: Path,
    data: Buffers,
    *,
    fsync: bool,
    mode: int = _FILE_MODE,
) -> None:
    """Write a file that must not exist yet; a kill leaves a shorter file under this name."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb", buffering=0) as file:
        for buffer in data:
            rest = memoryview(buffer).cast("B")
            while rest:
                written = file.write(rest)
                rest = rest[written:]
        if fsync:
            os.fsync(file.fileno())


def write_once(
    path: Path,
    data: Buffers,
    *,
    fsync: bool,
    scratch: Path | None = None,
) -> bool:
    """Create a file whole and exclusively; return False, and leave it alone, if the name is taken.

    The bytes go to a temporary name in `scratch` (default: beside the file, same file system) and
    get the final name by link(2), which is atomic and fails when the name exists: of two writers
    the first one wins, which a rename cannot promise. Call `fsync_folder` on the parent for a
    durable name. Raises FormatError on a file system without hard links.
    """
    temporary = _temporary(path, scratch)
    try:
        write_new(temporary, data, fsync=fsync)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise FormatError(
                f"{path.parent}: this file system cannot make hard links, which write-once files "
                "need; put the output on a local or POSIX shared disk"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return True


def replace(
    path: Path,
    data: Buffers,
    *,
    fsync: bool,
    scratch: Path | None = None,
    mode: int = _FILE_MODE,
) -> None:
    """Write a file whole by an atomic rename; a reader sees the old bytes or the new, no mixture.

    With `fsync` the file is on the disk before it gets its name, and the name before this returns.
    """
    temporary = _temporary(path, scratch)
    try:
        write_new(temporary, data, fsync=fsync, mode=mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if fsync:
        fsync_folder(path.parent)


def replace_text(
    path: Path,
    text: str,
    *,
    fsync: bool,
    mode: int = _FILE_MODE,
) -> None:
    """Write a text file as UTF-8, whole; see `replace`."""
    replace(path, [text.encode()], fsync=fsync, mode=mode)


def _temporary(path: Path, scratch: Path | None) -> Path:
    """Return a name that no other writer has."""
    folder = path.parent if scratch is None else scratch
    return folder / f"{path.name}.{uuid.uuid4().hex}{PARTIAL}"


@contextlib.contextmanager
def atomic_output(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it gets the final name, or is deleted.

    For files that a library writes, or that do not fit into memory. They are on the disk before
    they get their name. What killed processes of this machine left beside `path` for the same name
    is deleted first. Raises FormatError when `path` exists and `overwrite` is false, before and
    again at the end.
    """
    if path.exists() and not overwrite:
        raise FormatError(f"{path}: exists already; choose another name or ask for overwriting")
    if not path.parent.is_dir():
        raise FormatError(f"{path}: the folder {path.parent} does not exist; create it first")
    _sweep_dead(path)
    writer = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    temporary = path.with_name(f".{path.name}.{writer}{PARTIAL}")
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


@contextlib.contextmanager
def atomic_folder(
    path: Path,
    *,
    fsync: bool,
    overwrite: bool = False,
) -> Iterator[Path]:
    """Yield an empty folder `path`.partial to fill; when that is done it gets the name `path`.

    What a kill or an error left under the temporary name is deleted at the next start, so that only
    one process may write a folder at a time. fsync: its own name becomes durable; the files in it
    are the caller's affair. overwrite: whether a folder of that name is deleted, at the end.
    """
    temporary = path.with_name(path.name + PARTIAL)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if fsync:
        fsync_folder(temporary)
    if overwrite and path.exists():
        shutil.rmtree(path)
    temporary.rename(path)
    if fsync:
        fsync_folder(path.parent)


def _machine() -> str:
    """Return what stands for the processes whose numbers can be asked for here."""
    namespace = Path("/proc/self/ns/pid")
    number = namespace.stat().st_ino if namespace.exists() else 0
    identity = f"{os.uname().nodename} {number}"
    return f"{zlib.crc32(identity.encode()):08x}"


def _sweep_dead(path: Path) -> None:
    """Delete temporary files for `path` whose writer on this machine is dead."""
    own = f".{path.name}.{_machine()}-"
    for left in path.parent.glob(f"{glob.escape(own)}*{PARTIAL}"):
        process = left.name.removeprefix(own).partition("-")[0]
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
