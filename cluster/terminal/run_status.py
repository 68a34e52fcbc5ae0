"""How far a run is, as lines for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.terminal.progress import duration


def print_run(out: Path, found: dict[str, Any]) -> None:
    """Print what `read_status` found."""
    done = found["done"]
    tiles = found["tiles"]
    print(f"{out}: {found['state']}, {done} of {tiles} tiles ({100 * done / tiles:.1f} %)")
    for line in found["levels"]:
        print(f"  level {line['level']}: {line['done']} of {line['tiles']} tiles")
    if found["state"] == "running" and found["seconds_left"] is not None:
        print(
            f"  {found['workers']} workers, batches of {found['batch']:.1f} tiles, "
            f"{found['nfe_per_second']:.1f} NFE/s, "
            f"about {duration(found['seconds_left'])} left"
        )
    if found["failures"]:
        print(f"  {found['failures']} failed tries; the last: {found['last_failure']}")
    for tile in found["substituted"]:
        print(
            f"  not restored: level {tile['level']} row {tile['row']} column {tile['col']}; filled"
        )
    if found["state"] in ("unfinished", "failed"):
        print(f"  go on with: gigarestore resume {out}")
