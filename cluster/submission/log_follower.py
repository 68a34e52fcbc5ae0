"""Follow log files that other machines write."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PAUSE = 1.0
# Looks at the files per question to the scheduler.
LOOKS = 5


def follow_files(paths: Sequence[Path], ended: Callable[[], bool]) -> Iterator[str]:
    """Yield files' texts as they grow, from their beginnings, until `ended`; what came before the
    end is all there.

    Of several files each piece's is named where it is not that of the piece before.
    """
    places = dict.fromkeys(paths, 0)
    named = None
    for look in itertools.count():
        last = look % LOOKS == 0 and ended()
        for path in filter(Path.exists, paths):
            with path.open("rb") as file:
                file.seek(places[path])
                while piece := file.read(1 << 16):
                    if len(paths) > 1 and path != named:
                        yield f"==> {path.name} <==\n"
                    named = path
                    places[path] += len(piece)
                    yield piece.decode(errors="replace")
        if last:
            return
        time.sleep(PAUSE)
