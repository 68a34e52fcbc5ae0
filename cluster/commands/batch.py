"""The command `batch`: many images as one run, and `resume` of its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.batches.batch_manifest import SHARED, Entry, read_entries, share_of
from cluster.batches.folder import BatchFolder, Shard, array_shard, parse_shard
from cluster.options import options as opt
from cluster.options.executors import pick
from cluster.options.options import takes
from orchestrator.errors import PlanError
from orchestrator.run.batch_records import ImageRecord, ImageRecords
from orchestrator.run.many_images import WINDOW, ImageBatch, is_done
from storage.byte_source import located, redact
from storage.run_store.run_lock import RunLock

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="MANIFEST|IMAGES", help="A manifest (.csv, .jsonl), images, or a pattern in quotes."
    ),
]
Open = Annotated[
    int, typer.Option("--open", help="Images that are worked on at a time.", min=1, max=64)
]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Check A x = y and seams of each result.")
]
ShardOption = Annotated[
    str | None, typer.Option("--shard", help="Only the I-th of N shares of the images, I/N.")
]
Array = Annotated[
    bool, typer.Option("--array", help="Only this SLURM array task's share of the images.")
]


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """What holds for a whole batch."""

    window: int = WINDOW
    """Images that are worked on at a time."""
    verify: bool = True
    shared: dict[str, Any] = field(default_factory=dict)
    """Options of where and how it runs, by field."""

    def but(self, **given: Any) -> BatchSettings:
        """Return them with some shared options given anew."""
        return replace(self, shared={**self.shared, **given})


@takes(*(name for name in opt.JOB if name != "size"))
def batch(
    sources: Sources,
    outdir: Annotated[
        Path,
        typer.Argument(metavar="OUTDIR", help="Folder for the results, one OME-Zarr image each."),
    ],
    job: opt.Job = None,
    *,
    window: Open = WINDOW,
    verify: Verify = True,
    shard: ShardOption = None,
    array: Array = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Restore all again.")] = False,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Also when another driver works at OUTDIR, because that one hangs."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: opt.AsJson = False,
    **options: Any,
) -> None:
    """Restore many images into OUTDIR as one run, all on the same workers; the same command goes on
    after any death.
    """
    given, settings = sort_out({**options, "job": job, "window": window, "verify": verify})
    if array and shard is not None:
        raise PlanError("--array takes its share from SLURM; leave out --shard")
    share = array_shard() if array else None if shard is None else parse_shard(shard)
    folder = BatchFolder(outdir)
    entries = read_entries(sources, given)
    raise typer.Exit(
        _run(
            folder,
            entries,
            settings,
            share,
            fresh=True,
            overwrite=overwrite,
            take_over=take_over,
            quiet=quiet,
            as_json=as_json,
        )
    )


def sort_out(values: Mapping[str, Any]) -> tuple[dict[str, Any], BatchSettings]:
    """Return the options that images have for themselves, and those of the whole batch; values: the
    command's parameters.
    """
    given = {
        name: value
        for name, value in values.items()
        if name in opt.OPTIONS and value not in (None, [], ())
    }
    settings = BatchSettings(
        values["window"], values["verify"], {n: given.pop(n) for n in SHARED if n in given}
    )
    if values["job"] is not None:
        given["job"] = located(values["job"])
    return given, settings


def resume_batch(out: Path, given: dict[str, Any], *, take_over: bool, quiet: bool) -> int:
    """Go on with the batch at `out` and return the exit code; given: options of where it runs."""
    folder = BatchFolder(out)
    entries, options = folder.load()
    if wrong := [name for name in given if name not in SHARED]:
        raise PlanError(
            f"{out} is a batch: --{wrong[0].replace('_', '-')} is in its manifest; give it to `batch` again"
        )
    return _run(
        folder, entries, BatchSettings(**options).but(**given), take_over=take_over, quiet=quiet
    )


def _run(
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


def _verdict(
    root: Path,
    found: Sequence[ImageRecord],
    images: int,
    trouble: Exception | None,
    interrupted: bool,
) -> int:
    """Say on one line what is left to do, and return the exit code."""
    from cluster.cli import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain

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
