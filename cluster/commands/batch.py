"""The command `batch`: many images as one run, and `resume` of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.batches.batch_manifest import read_entries
from cluster.batches.batch_run import HowToRun, run_batch
from cluster.batches.batch_settings import sort_out
from cluster.batches.folder import BatchFolder
from cluster.batches.shares import Share, array_share, parse_share
from cluster.options import options as opt
from cluster.options.arguments import Quiet, TakeOver
from cluster.options.options import takes
from orchestrator.errors import PlanError
from orchestrator.run.many_images import WINDOW

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
ShareOption = Annotated[
    str | None, typer.Option("--share", help="Only the I-th of N shares of the images, I/N.")
]
OldShareOption = Annotated[str | None, typer.Option("--shard", hidden=True)]
Array = Annotated[
    bool, typer.Option("--array", help="Only this SLURM array task's share of the images.")
]


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Restore all again.")]
OutDir = Annotated[
    Path, typer.Argument(metavar="OUTDIR", help="Folder for the results, one OME-Zarr image each.")
]


@takes(*(name for name in opt.JOB if name != "size"))
def batch(
    sources: Sources,
    outdir: OutDir,
    job: opt.Job = None,
    *,
    window: Open = WINDOW,
    verify: Verify = True,
    share: ShareOption = None,
    old_share: OldShareOption = None,
    array: Array = False,
    overwrite: Overwrite = False,
    take_over: TakeOver = False,
    quiet: Quiet = False,
    as_json: opt.AsJson = False,
    **options: Any,
) -> None:
    """Restore many images into OUTDIR as one run, all on the same workers.

    The same command goes on after any death.
    """
    given, settings = sort_out({**options, "job": job, "window": window, "verify": verify})
    folder = BatchFolder(outdir)
    how = HowToRun(
        share=_share(share or old_share, array),
        fresh=True,
        overwrite=overwrite,
        take_over=take_over,
        quiet=quiet,
        as_json=as_json,
    )
    entries = read_entries(sources, given)
    raise typer.Exit(run_batch(folder, entries, settings, how))


def _share(named: str | None, array: bool) -> Share | None:
    """Return the share that is asked for, by name or by being a task of an array."""
    if array and named is not None:
        raise PlanError("--array takes its share from SLURM; leave out --share")
    if array:
        return array_share()
    return None if named is None else parse_share(named)
