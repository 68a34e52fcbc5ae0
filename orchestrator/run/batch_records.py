"""Records of a batch: one JSON line for every image that was tried, appended and synced; the last
one of an image counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["published", "inconsistent", "failed", "refused", "interrupted"]
PUBLISHED = ("published", "inconsistent")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """What became of one image."""

    image: str
    """Name of its output in the batch's folder."""
    input: str
    state: State
    """published: restored (and verified, if asked); inconsistent: published, but A x = y does not
    hold; failed: can be resumed; refused: it is no image that can be restored, nothing was written;
    interrupted: by a signal."""
    error: str | None = None
    seconds: float = 0.0
    """Time in this attempt, the waiting for workers that other images kept busy included."""
    size: tuple[int, int] | None = None
    """Height and width of the output, px."""
    tiles: int = 0
    resumed: int = 0
    """Tiles that were committed before this attempt."""
    substituted: int = 0
    """Tiles that could not be restored, and hold what stands in for them."""
    nfe: int = 0
    """Network evaluations of all attempts."""
    busy_seconds: float = 0.0
    """What workers spent on it in all attempts."""
    consistency: dict[str, Any] | None = None
    """Largest and root mean square |A x - y|, and the limit, in grey levels; whether it holds,
    whether a residual is expected because the measurement is noisy. None: not verified."""
    seam: float | None = None
    """Seam ratio over all edges (`gigarestore verify`)."""
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))


class ImageRecords:
    """The records of one batch, or of one share of it."""

    def __init__(self, path: Path, known: Mapping[str, ImageRecord]) -> None:
        """known: the latest record of each image, whoever wrote it."""
        self._path = path
        self.latest = dict(known)

    def append(self, record: ImageRecord) -> None:
        """Add a record; it is on the disk on return. Raises OSError."""
        line = json.dumps(asdict(record)).encode() + b"\n"
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(fd).st_size
            torn = (
                size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            )  # by a driver that was killed as it wrote
            os.write(fd, b"\n" + line if torn else line)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.latest[record.image] = record


def read_records(path: Path) -> Iterator[ImageRecord]:
    """Yield a file's records in the order in which they were written; a torn line is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                values = json.loads(line)
            except ValueError:
                continue
            size = values.pop("size")
            yield ImageRecord(**values, size=None if size is None else (size[0], size[1]))
