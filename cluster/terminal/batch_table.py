"""What became of a batch's images, as a table and a sum."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.terminal.progress import duration
from orchestrator.monitoring.utilisation import Usage
from orchestrator.run.batch_records import ImageRecord

# Rows of the table; images that are not restored are always named.
ROWS = 60
COLUMNS = ("image", "state", "size", "tiles", "NFE", "time", "|A x - y|", "seam", "")


def busy(usage: Usage) -> str:
    """Say how much of their time workers have spent on tiles."""
    if usage.share is None:
        return "no worker was needed"
    workers = "1 worker" if usage.workers == 1 else f"{usage.workers} workers"
    return f"{workers}, busy {usage.share:.0%} of the time"


def print_records(records: Sequence[ImageRecord], usage: Usage, seconds: float) -> None:
    """Print what became of a batch's images: a table, and the sum."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    shown = [
        record
        for number, record in enumerate(records)
        if number < ROWS or record.state != "published"
    ]
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for record in shown:
        table.add_row(*_row(record))
    console.print(table)
    if len(shown) < len(records):
        console.print(f"and {len(records) - len(shown)} more, published")

    states = [record.state for record in records]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    work = f"{usage.tiles:,} tiles, {usage.nfe:,} NFE in {duration(seconds)}"
    console.print(f"{len(records)} images: {counts}; {work}")
    console.print(busy(usage))


def _row(record: ImageRecord) -> list[str]:
    """Return an image's line, in the order of COLUMNS."""
    note = f"{record.substituted} tiles filled" if record.substituted else ""
    return [
        record.image,
        record.state,
        "" if record.size is None else f"{record.size[0]}x{record.size[1]}",
        f"{record.tiles:,}",
        f"{record.nfe:,}",
        duration(record.seconds),
        "" if record.consistency is None else _measured(**record.consistency),
        "" if record.seam is None else f"{record.seam:.3f}",
        record.error or note,
    ]


def _measured(max: float, limit: float, noisy: bool, **_: Any) -> str:
    """Return the largest |A x - y| and what it may be; of a noisy measurement a residual is
    expected.
    """
    return f"{max:.2f} ({'noisy' if noisy else f'limit {limit:.2f}'})"
