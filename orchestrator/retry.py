"""A store that fails for a while (a share that is remounted, a server that restarts) is tried again
for a while.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from storage.errors import MissingCells

# How long a tile's reads or writes are tried again before its try has failed, seconds.
STORE_SECONDS = 90.0
# First pause, s; it doubles up to the longest.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
# What a full disk answers, or a limit on what this user may store: waiting does not help.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

T = TypeVar("T")


def disk_full(error: BaseException | None) -> bool:
    """Tell whether an error says that nothing more can be stored."""
    return isinstance(error, OSError) and error.errno in FULL


def retry_store(action: Callable[[], T], seconds: float, trouble: Callable[[str], None]) -> T:
    """Return action(), tried again while the store fails; `trouble` is told of every failure that
    was tried again.

    Cells that are committed and not there count as a failing store: another machine's files may
    show late. Raises the last error after `seconds`, and at once when the disk is full.
    """
    until = time.monotonic() + seconds
    pause = FIRST_PAUSE
    while True:
        try:
            return action()
        except (OSError, MissingCells) as error:
            if disk_full(error) or time.monotonic() + pause > until:
                raise
            trouble(f"{type(error).__name__}: {error}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
