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
from orchestrator.run_folder import RunDir
from storage.run_store.journal import read_records


def read_batch_status(folder: BatchFolder) -> dict[str, Any]:
    """Return how many images are in which state, the records of those that are through, and how far
    the others are.

    A state is a record's, or that of `orchestrator.monitoring.run_progress` for an image that is
    under way, or `waiting`.
    """
    from orchestrator.monitoring.run_progress import read_status

    records = folder.all_records()
    images = []
    for entry in folder.load()[0]:
        root = folder.root / entry.name
        record = records.get(entry.name)
        begun = RunDir(root).job.exists()
        found: dict[str, Any] = {"image": entry.name, "state": "waiting"}
        if begun and not RunDir(root).published:
            status = read_status(root)
            found |= {"state": status["state"], "done": status["done"], "tiles": status["tiles"]}
        elif record is not None:
            found |= asdict(record)
        images.append(found)
    states = [image["state"] for image in images]
    return {
        "output": str(folder.root),
        "states": {s: states.count(s) for s in dict.fromkeys(states)},
        "images": images,
    }


def print_batch_status(out: Path, as_json: bool) -> None:
    """Print how far the batch at `out` is: the sum, and a line for each image that is begun and not
    published.
    """
    found = read_batch_status(BatchFolder(out))
    if as_json:
        print(json.dumps(found))
        return
    print_images(out, found)


def print_images(out: Path, found: dict[str, Any]) -> None:
    """Print what `read_batch_status` found."""
    counts = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    print(f"{out}: {len(found['images'])} images: {counts}")
    for image in found["images"]:
        if "done" in image:
            print(
                f"  {image['image']}: {image['state']}, {image['done']} of {image['tiles']} tiles"
            )
        elif image.get("error"):
            print(f"  {image['image']}: {image['state']}: {image['error']}")
    if set(found["states"]) - {"published", "running"}:
        print(f"  go on with: gigarestore resume {out}")


def committed(folder: BatchFolder) -> int:
    """Return the number of committed tiles, in a task of a SLURM array those of its share."""
    runs = folder.runs(array_share() if "SLURM_ARRAY_TASK_ID" in os.environ else None)
    return sum(1 for run in runs if run.journal.exists() for _ in read_records(run.journal))


if __name__ == "__main__":
    print(committed(BatchFolder(Path(sys.argv[1]))))
