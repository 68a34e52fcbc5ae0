"""The folder of a batch: its images' outputs, its records, and what is needed to go on with it.

OUTDIR/NAME.zarr                      an image's output, a run of its own
OUTDIR/batch.jsonl                    records; of a share batch-I-of-N.jsonl
OUTDIR/.gigarestore/manifest.jsonl    the images with all their options
OUTDIR/.gigarestore/batch.json        the options of the whole batch
OUTDIR/.gigarestore/lock              held by the driver; of a share lock-I-of-N
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.batches.batch_manifest import Entry, kept_images, manifest_text, read_entries
from cluster.batches.shares import Share, share_of
from orchestrator.errors import PlanError
from orchestrator.job.schema import RETIRED
from orchestrator.run.batch_records import ImageRecord, read_records
from orchestrator.run_folder import STATE, RunDir
from storage import atomic_files


@dataclass(frozen=True, slots=True)
class BatchFolder:
    """Names of everything in a batch's folder."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / STATE / "manifest.jsonl"

    @property
    def options(self) -> Path:
        return self.root / STATE / "batch.json"

    @property
    def exists(self) -> bool:
        """True when a batch was begun here."""
        return self.manifest.exists()

    def records(self, share: Share | None) -> Path:
        return self.root / f"batch{_suffix(share)}.jsonl"

    def lock(self, share: Share | None) -> Path:
        return self.root / STATE / f"lock{_suffix(share)}"

    def check(self, entries: Sequence[Entry] = ()) -> None:
        """Raise PlanError where something else is, or a batch that was begun with other images than
        these.
        """
        if self.root.exists() and not self.root.is_dir():
            raise PlanError(f"{self.root} is a file; give a folder for the results")
        if RunDir(self.root).job.exists():
            raise PlanError(
                f"{self.root} is the output of one image; give a folder for the results of all"
            )
        if entries and self.exists:
            self._check_same_images(entries)

    def _check_same_images(self, entries: Sequence[Entry]) -> None:
        given = {entry.name: entry.given["path"] for entry in entries}
        for name, path in kept_images(self.manifest).items():
            if given.get(name) != path:
                raise PlanError(
                    f"{self.root} is a batch of other images: its {name} is of {path}; choose "
                    f"another OUTDIR, go on with `gigarestore resume {self.root}`, or --overwrite"
                )

    def make(self) -> None:
        """Make the folder; raises PlanError where something else is."""
        self.check()
        self.manifest.parent.mkdir(parents=True, exist_ok=True)

    def keep(
        self, entries: Sequence[Entry], options: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        """Keep what is to be restored; raises PlanError when that would forget images of a batch
        that was begun.

        overwrite: forget them. Images may always be added.
        """
        if not overwrite:
            self.check(entries)
        atomic_files.replace(self.options, [json.dumps(options).encode()], fsync=True)
        atomic_files.replace(self.manifest, [manifest_text(entries).encode()], fsync=True)

    def load(self) -> tuple[list[Entry], dict[str, Any]]:
        """Return the images and options of a batch that was begun."""
        options = json.loads(self.options.read_bytes())
        known = {name: value for name, value in options.items() if f"run.{name}" not in RETIRED}
        return read_entries([str(self.manifest)], {}), known

    def runs(self, share: Share | None) -> list[RunDir]:
        """Return the folders of a share's images, of a batch that was begun or is yet to be."""
        names = list(kept_images(self.manifest)) if self.exists else []
        return [RunDir(self.root / name) for name in share_of(names, share)]

    def all_records(self) -> dict[str, ImageRecord]:
        """Return the latest record of each image, whichever share restored it."""
        latest: dict[str, ImageRecord] = {}
        for path in sorted(self.root.glob("batch*.jsonl")):
            for record in read_records(path):
                earlier = latest.get(record.image)
                if earlier is None or record.time >= earlier.time:
                    latest[record.image] = record
        return latest


def _suffix(share: Share | None) -> str:
    return "" if share is None else share.suffix
