"""The command `batch`: many images as one run, and `resume` of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.batches.batch_manifest import read_entries
from cluster.batches.batch_run import run_batch
from cluster.batches.folder import BatchFolder, array_shard, parse_shard
from cluster.batches.settings import sort_out
from cluster.options import options as opt
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
ShardOption = Annotated[
    str | None, typer.Option("--shard", help="Only the I-th of N shares of the images, I/N.")
]
Array = Annotated[
    bool, typer.Option("--array", help="Only this SLURM array task's share of the images.")
]


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
        run_batch(
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
