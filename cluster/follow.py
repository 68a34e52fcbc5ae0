"""Follow a log file that another machine writes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PAUSE = 1.0
# Looks at the file per question to the scheduler.
LOOKS = 5


def follow_file(path: Path, ended: Callable[[], bool]) -> Iterator[str]:
    """Yield a file's text as it grows, from its beginning, until `ended`; what came before the end is all there."""
    place = 0
    for look in itertools.count():
        last = look % LOOKS == 0 and ended()
        if path.exists():
            with path.open("rb") as file:
                file.seek(place)
                while piece := file.read(1 << 16):
                    place += len(piece)
                    yield piece.decode(errors="replace")
        if last:
            return
        time.sleep(PAUSE)
