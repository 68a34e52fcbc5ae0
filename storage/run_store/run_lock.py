"""One driver per run folder: an advisory lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Self

from storage.errors import LockedError

_log = logging.getLogger(__name__)
# What flock answers where the file system has no locks (some Lustre and FUSE mounts).
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class RunLock:
    """Hold a run folder; use it as a context manager around everything that writes there.

    The kernel drops the lock when the process dies, so there is no stale lock to clean up. The file
    stays.
    """

    def __init__(self, path: Path | str, *, force: bool = False) -> None:
        """Take the lock at once.

        Raises LockedError, naming the holder, when another process has it. force: take it all the
        same, by putting a new file in its place: for a holder that hangs. What that one does must
        be fenced off by other means (storage.run_store.fencing).
        """
        self.path = Path(path)
        self._fd: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            self._fd = None
            if force:
                self.path.unlink(missing_ok=True)
                self.__init__(path)  # type: ignore[misc]
                return
            raise LockedError(
                f"{self.path.parent}: another run works here ({holder(self.path)}); wait for it, "
                "stop it, or take over with `resume --take-over` if it hangs"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(self._fd)
                raise
            _log.warning(
                "%s: this file system has no locks; start only one driver per output", self.path
            )
        self._sign()

    def release(self) -> None:
        """Give the lock back; calling it twice does no harm."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
        self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _sign(self) -> None:
        """Write who holds the lock, for the message that the next one gets."""
        who = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        assert self._fd is not None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(who).encode(), 0)


def holder(path: Path | str) -> str:
    """Say who signed a lock file, for people.

    The signature alone does not mean that the lock is held.
    """
    try:
        who = json.loads(Path(path).read_bytes())
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unnamed process"
