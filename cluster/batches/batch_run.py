"""Restore a batch, or a share of it, and say what became of its images."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.batches.batch_manifest import SHARED, Entry
from cluster.batches.batch_settings import BatchSettings
from cluster.batches.folder import BatchFolder
from cluster.batches.shares import Share, share_of
from cluster.options import options as opt
from cluster.options.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain
from orchestrator.api.job_runs import pick_executor
from orchestrator.errors import PlanError
from orchestrator.run.batch_records import ImageRecord, ImageRecords
from orchestrator.run.many_images import Image, ImageBatch, is_done
from storage.byte_source import redact
from storage.run_store.run_lock import RunLock

if TYPE_CHECKING:
    from orchestrator.monitoring.utilisation import Usage
    from orchestrator.ray_backend.executor import RayExecutor
    from orchestrator.run.serial_executor import SerialExecutor
    from orchestrator.shutdown import Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToRun:
    """What this start of a batch was told, and no later one inherits."""

    share: Share | None = None
    """Its share of the images; None: all."""
    fresh: bool = False
    """It is given now, and kept once nothing can be refused any more."""
    overwrite: bool = False
    take_over: bool = False
    quiet: bool = False
    as_json: bool = False


def run_batch(
    folder: BatchFolder, entries: Sequence[Entry], settings: BatchSettings, how: HowToRun
) -> int:
    """Restore a batch, or a share of it, print what became of it, and return the exit code."""
    from orchestrator.monitoring.utilisation import Usage
    from orchestrator.shutdown import Stop

    mine = [entry.sharing(settings.shared) for entry in share_of(entries, how.share)]
    if not mine:
        raise PlanError(f"share {how.share} of {len(entries)} images is empty; make fewer shares")
    images = [entry.image(folder.root) for entry in mine]
    run = mine[0].spec().run
    stop = Stop(run.drain_seconds)
    # Refuses an address where no cluster is: before anything is made.
    server = pick_executor(run, stop)

    usage = Usage()
    began = time.monotonic()
    folder.make()
    with RunLock(folder.lock(how.share), force=how.take_over):
        if how.fresh:
            folder.keep(entries, asdict(settings), overwrite=how.overwrite)
        records = ImageRecords(folder.records(how.share), folder.all_records())
        trouble = _restore(images, records, server, stop, settings, how, usage)
    seconds = time.monotonic() - began

    ended = [records.latest[image.name] for image in images if image.name in records.latest]
    if how.as_json:
        _print_json(ended, len(images), usage)
    else:
        from cluster.terminal.batch_table import print_records

        print_records(ended, usage, seconds)
    return _verdict(folder.root, ended, len(images), trouble)


def _restore(
    images: Sequence[Image],
    records: ImageRecords,
    server: RayExecutor | SerialExecutor,
    stop: Stop,
    settings: BatchSettings,
    how: HowToRun,
    usage: Usage,
) -> BaseException | None:
    """Restore the images that are not done; return what ended it early, None where nothing did."""
    from cluster.terminal.batch_progress import BatchView

    left = [image for image in images if how.overwrite or not is_done(image, records)]
    stop.listen()
    with BatchView(len(images), len(images) - len(left), usage, how.quiet) as view:
        work = ImageBatch(
            left,
            records,
            window=settings.window,
            verify=settings.verify,
            overwrite=how.overwrite,
            take_over=how.take_over,
            watch=view,
        )
        try:
            work.run(server, stop.seconds)
        except KeyboardInterrupt as interrupt:
            return interrupt
    return work.trouble


def _print_json(ended: Sequence[ImageRecord], images: int, usage: Usage) -> None:
    document = {
        "images": images,
        "workers": usage.workers,
        "utilisation": usage.share,
        "nfe": usage.nfe,
        "records": [asdict(record) for record in ended],
    }
    print(redact(json.dumps(document)))


def resume_batch(out: Path, given: dict[str, Any], *, take_over: bool, quiet: bool) -> int:
    """Go on with the batch at `out` and return the exit code; given: options of where it runs."""
    folder = BatchFolder(out)
    entries, options = folder.load()
    given = opt.under_own_names(given)
    if wrong := [name for name in given if name not in SHARED]:
        raise PlanError(
            f"{out} is a batch: {opt.flag_of(wrong[0])} is in its manifest; give it to `batch` "
            "again"
        )
    settings = BatchSettings.kept(options).but(**given)
    return run_batch(folder, entries, settings, HowToRun(take_over=take_over, quiet=quiet))


def _verdict(
    root: Path, ended: Sequence[ImageRecord], images: int, trouble: BaseException | None
) -> int:
    """Say on one line what is left to do, and return the exit code."""
    go_on = f"go on with: gigarestore resume {root}"
    failed = [record for record in ended if record.state != "published"]
    if isinstance(trouble, KeyboardInterrupt):
        complain(f"interrupted, everything committed is kept; {go_on}")
        return INTERRUPTED
    if trouble is not None:
        missing = len(failed) + images - len(ended)
        complain(f"{trouble}; {missing} of {images} images are not restored; {go_on}")
        return FAILED
    if not failed:
        return DONE

    first = f"{failed[0].image}: {failed[0].error}"
    if len(failed) == images and all(record.state == "refused" for record in failed):
        complain(f"none of {images} images can be restored; {first}")
        return BAD_INPUT
    complain(
        f"{len(failed)} of {images} images are not restored ({first}); what went well is kept, "
        f"{go_on}"
    )
    return FAILED
