"""How far a run is, as lines for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.terminal.progress import duration


def print_run(out: Path, progress: dict[str, Any]) -> None:
    """Print what `read_status` found."""
    done = progress["done"]
    tiles = progress["tiles"]
    print(f"{out}: {progress['state']}, {done} of {tiles} tiles ({100 * done / tiles:.1f} %)")
    for line in progress["levels"]:
        region = f"region {line['region']}, " if "region" in line else ""
        print(f"  {region}level {line['level']}: {line['done']} of {line['tiles']} tiles")
    if progress["state"] == "running" and progress["seconds_left"] is not None:
        print(
            f"  {progress['workers']} workers, batches of {progress['batch']:.1f} tiles, "
            f"{progress['nfe_per_second']:.1f} NFE/s, "
            f"about {duration(progress['seconds_left'])} left"
        )
    if progress["failures"]:
        print(f"  {progress['failures']} failed tries; the last: {progress['last_failure']}")
    for tile in progress["substituted"]:
        region = f"region {tile['region']} " if "region" in tile else ""
        place = f"{region}level {tile['level']} row {tile['row']} column {tile['col']}"
        print(f"  not restored: {place}; filled")
    if progress["state"] in ("unfinished", "failed"):
        print(f"  go on with: gigarestore resume {out}")
