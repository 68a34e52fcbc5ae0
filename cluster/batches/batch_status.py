"""How far a batch is, from its folder alone: works while it runs and after it died.

    python -m cluster.batches.batch_status OUTDIR

prints the number of committed tiles, in a task of a SLURM array those of its share: what a script
asks after an attempt.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.batches.folder import BatchFolder
from cluster.batches.shares import array_share
from orchestrator.monitoring.tile_counts import committed_records
from orchestrator.run.batch_records import ImageRecord
from orchestrator.run_folder import RunDir


def read_batch_status(folder: BatchFolder) -> dict[str, Any]:
    """Return how many images are in which state, the records of those that are through, and how far
    the others are.

    A state is a record's, or that of `orchestrator.monitoring.run_progress` for an image that is
    under way, or `waiting`.
    """
    records = folder.all_records()
    images = [
        _image_status(folder.root / entry.name, entry.name, records.get(entry.name))
        for entry in folder.load()[0]
    ]
    states = [image["state"] for image in images]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return {"output": str(folder.root), "states": counts, "images": images}


def _image_status(root: Path, name: str, record: ImageRecord | None) -> dict[str, Any]:
    """Return how far one image is; record: what became of it, None while nothing has."""
    from orchestrator.monitoring.run_progress import read_status

    run = RunDir(root)
    if run.job.exists() and not run.published:
        progress = read_status(root)
        under_way = {key: progress[key] for key in ("state", "done", "tiles")}
        return {"image": name, **under_way}
    if record is not None:
        return {"image": name, **asdict(record)}
    return {"image": name, "state": "waiting"}


def print_batch_status(out: Path, as_json: bool) -> None:
    """Print how far the batch at `out` is: the sum, and a line for each image that is begun and not
    published.
    """
    progress = read_batch_status(BatchFolder(out))
    if as_json:
        print(json.dumps(progress))
        return
    print_images(out, progress)


def print_images(out: Path, progress: dict[str, Any]) -> None:
    """Print what `read_batch_status` found."""
    counts = ", ".join(f"{count} {state}" for state, count in progress["states"].items())
    print(f"{out}: {len(progress['images'])} images: {counts}")
    for image in progress["images"]:
        if "done" in image:
            print(
                f"  {image['image']}: {image['state']}, {image['done']} of {image['tiles']} tiles"
            )
        elif image.get("error"):
            print(f"  {image['image']}: {image['state']}: {image['error']}")
    if set(progress["states"]) - {"published", "running"}:
        print(f"  go on with: gigarestore resume {out}")


def committed(folder: BatchFolder) -> int:
    """Return the number of committed tiles, in a task of a SLURM array those of its share."""
    runs = folder.runs(array_share() if "SLURM_ARRAY_TASK_ID" in os.environ else None)
    return sum(committed_records(run) for run in runs)


if __name__ == "__main__":
    print(committed(BatchFolder(Path(sys.argv[1]))))
