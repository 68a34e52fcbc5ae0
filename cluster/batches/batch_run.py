"""Restore a batch, or a share of it, and say what became of its images."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.batches.batch_manifest import SHARED, Entry, share_of
from cluster.batches.folder import BatchFolder, Shard
from cluster.batches.settings import BatchSettings
from cluster.options.executors import pick
from cluster.options.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain
from orchestrator.errors import PlanError
from orchestrator.run.batch_records import ImageRecord, ImageRecords
from orchestrator.run.many_images import ImageBatch, is_done
from storage.byte_source import redact
from storage.run_store.run_lock import RunLock


def run_batch(
    folder: BatchFolder,
    entries: Sequence[Entry],
    settings: BatchSettings,
    shard: Shard | None = None,
    *,
    fresh: bool = False,
    overwrite: bool = False,
    take_over: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> int:
    """Restore a batch, or a share of it, and return the exit code.

    fresh: it is given now, and kept once nothing can be refused any more.
    """
    from cluster.terminal.batch_progress import BatchView, print_records
    from orchestrator.monitoring.utilisation import Usage
    from orchestrator.shutdown import Stop

    mine = [entry.sharing(settings.shared) for entry in share_of(entries, shard)]
    if not mine:
        raise PlanError(f"share {shard} of {len(entries)} images is empty; make fewer shares")
    images = [entry.image(folder.root) for entry in mine]
    began = time.monotonic()
    usage = Usage()
    run = mine[0].spec().run
    stop = Stop(run.drain_seconds)
    interrupted = False
    server = pick(run, stop)
    folder.make()
    with RunLock(folder.lock(shard), force=take_over):
        if fresh:
            folder.keep(entries, asdict(settings), overwrite=overwrite)
        records = ImageRecords(folder.records(shard), folder.all_records())
        left = images if overwrite else [image for image in images if not is_done(image, records)]
        stop.listen()
        with BatchView(len(images), len(images) - len(left), usage, quiet) as view:
            work = ImageBatch(
                left,
                records,
                window=settings.window,
                verify=settings.verify,
                overwrite=overwrite,
                take_over=take_over,
                watch=view,
            )
            try:
                work.run(server, stop.seconds)
            except KeyboardInterrupt:
                interrupted = True
    found = [records.latest[image.name] for image in images if image.name in records.latest]
    if as_json:
        summary = {
            "images": len(images),
            "workers": usage.workers,
            "utilisation": usage.share,
            "nfe": usage.nfe,
        }
        print(redact(json.dumps({**summary, "records": [asdict(record) for record in found]})))
    else:
        print_records(found, usage, time.monotonic() - began)
    return _verdict(folder.root, found, len(images), work.trouble, interrupted)


def resume_batch(out: Path, given: dict[str, Any], *, take_over: bool, quiet: bool) -> int:
    """Go on with the batch at `out` and return the exit code; given: options of where it runs."""
    folder = BatchFolder(out)
    entries, options = folder.load()
    if wrong := [name for name in given if name not in SHARED]:
        raise PlanError(
            f"{out} is a batch: --{wrong[0].replace('_', '-')} is in its manifest; give it to `batch` again"
        )
    return run_batch(
        folder, entries, BatchSettings(**options).but(**given), take_over=take_over, quiet=quiet
    )


def _verdict(
    root: Path,
    found: Sequence[ImageRecord],
    images: int,
    trouble: Exception | None,
    interrupted: bool,
) -> int:
    """Say on one line what is left to do, and return the exit code."""
    go_on = f"go on with: gigarestore resume {root}"
    bad = [record for record in found if record.state != "published"]
    missing = images - len(found)
    if interrupted:
        complain(f"interrupted, everything committed is kept; {go_on}")
        return INTERRUPTED
    if trouble is not None:
        complain(f"{trouble}; {len(bad) + missing} of {images} images are not restored; {go_on}")
        return FAILED
    if not bad:
        return DONE
    first = f"{bad[0].image}: {bad[0].error}"
    if len(bad) == images and all(record.state == "refused" for record in bad):
        complain(f"none of {images} images can be restored; {first}")
        return BAD_INPUT
    complain(
        f"{len(bad)} of {images} images are not restored ({first}); what went well is kept, {go_on}"
    )
    return FAILED
