"""Attempts on one output carry a number; a newer one supersedes an older.

The lock (storage.run_store.run_lock) keeps a second driver out where the file system's locks hold.
They may not hold between machines, and a driver that hangs keeps them. So the present attempt is
also a file of its own, named by its number:

    attempts/7    {"pid": ..., "host": ..., "machine": ..., "since": ...}

Its modification time is renewed by a heartbeat. Taking over means to create the next number,
exclusively, and then to remove the earlier ones: an attempt whose file is gone has been superseded,
and its late writes must not count. Times are the file server's own, so that machines need not agree
on the time.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Self

from storage import atomic_files
from storage.errors import LockedError, SupersededError

_log = logging.getLogger(__name__)
# Seconds between two signs of life, and after which a driver without one counts as dead. Five may
# be lost.
HEARTBEAT = 10.0
EXPIRY = 60.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Attempt:
    """Hold the right to write to an output; a context manager around everything that does."""

    def __init__(self, folder: Path | str, *, force: bool = False) -> None:
        """Begin the next attempt.

        force: take the output from a driver that shows signs of life on another machine, which
        otherwise raises LockedError. On this machine the lock has already told that there is none.
        """
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic_files.sweep(self._folder)
        earlier = self._numbers()
        if earlier and not force:
            self._refuse_beside(self._folder / str(earlier[-1]))
        self.number = earlier[-1] + 1 if earlier else 1
        self._path = self._folder / str(self.number)
        self._claim()
        for number in earlier:
            (self._folder / str(number)).unlink(missing_ok=True)
        self._over = threading.Event()
        self._beat = threading.Thread(
            target=self._live,
            name="heartbeat",
            daemon=True,
        )
        self._beat.start()

    def _claim(self) -> None:
        """Create the file of this attempt; raises LockedError where another was faster."""
        who = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": _machine(),
            "since": _now(),
        }
        # Not `replace`: of two drivers that begin at the same moment only one may have the number.
        first = atomic_files.write_once(self._path, [json.dumps(who).encode()], fsync=True)
        if not first:
            raise self._beaten()
        # The number may have been freed by one that has overtaken this one since it looked.
        if self._numbers()[-1] > self.number:
            self._path.unlink(missing_ok=True)
            raise self._beaten()

    def check(self) -> None:
        """Raise SupersededError when a later attempt has taken over."""
        if not self._path.exists() and self._folder.exists():
            output = self._folder.parent.parent
            raise SupersededError(
                f"{output}: attempt {self.number} was superseded by a later one, which goes on"
            )

    def release(self) -> None:
        """Say that this attempt has ended: the next need not wait for its last sign of life."""
        self._over.set()
        self._beat.join()
        if self._path.exists():
            os.utime(self._path, (0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beaten(self) -> LockedError:
        return LockedError(
            f"{self._folder.parent}: another run began here at this moment; wait for it or stop it"
        )

    def _numbers(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def _refuse_beside(self, path: Path) -> None:
        """Raise LockedError while the attempt of that file lives on another machine."""
        who = _who(path)
        age = self._age(path)
        here = who.get("machine") == _machine()
        if here or age is None or age > EXPIRY:
            return
        raise LockedError(
            f"{self._folder.parent}: a driver on another machine works here "
            f"(process {who.get('pid')} on {who.get('host')} since {who.get('since')}, "
            f"last sign of life {age:.0f} s ago); stop it, wait until {EXPIRY:.0f} s have passed "
            "without one, or take over with `resume --take-over`"
        )

    def _age(self, path: Path) -> float | None:
        """Return how long ago a file was touched, s, by the clock that touches files.

        None when it is gone.
        """
        probe = self._folder / f"{uuid.uuid4().hex}{atomic_files.PARTIAL}"
        probe.touch()
        try:
            now = probe.stat().st_mtime
            return now - path.stat().st_mtime
        except FileNotFoundError:
            return None
        finally:
            probe.unlink(missing_ok=True)

    def _live(self) -> None:
        while not self._over.wait(HEARTBEAT):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                return  # superseded: `check` says so
            except OSError as error:
                _log.warning("%s: no sign of life could be given: %s", self._path, error)


def _who(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _machine() -> str:
    """Name this machine as long as it runs; host names repeat."""
    return _BOOT.read_text().strip() if _BOOT.exists() else socket.gethostname()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
