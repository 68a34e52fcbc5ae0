"""The command `gigarestore export`: a published image as one file for other programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import PlanError

# Share of the work after which a plain line is printed where there is no terminal, from so many
# tiles on.
PLAIN_SHARE = 0.25
PLAIN_LEAST = 1000


def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a restored image.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".tif, .ome.tif, .png or .jpg")],
    format: Annotated[
        str | None,
        typer.Option(
            help=(
                "tiff (pyramid that OpenSlide, GDAL and QuPath read), ome-tiff, geotiff, cog, png "
                "or jpeg."
            ),
            show_default="what the suffix says",
        ),
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option(help="TIFF: none, deflate, zstd, lzw or jpeg.", show_default="deflate"),
    ] = None,
    quality: Annotated[int, typer.Option(help="Of JPEG, 1 to 100.")] = 90,
    pyramid: Annotated[
        bool, typer.Option("--pyramid/--no-pyramid", help="TIFF: with the coarser levels.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Write the published image at OUT to one file, with pixel size, nodata, masks or
    alpha, bands and georeference.
    """
    from cluster.terminal.progress import size
    from orchestrator.run_folder import RunDir
    from storage.export.export_image import export as write_file

    if not RunDir(out).published:
        hint = f"; `gigarestore resume {out}` finishes it" if RunDir(out).job.exists() else ""
        raise PlanError(f"{out} holds no published image{hint}")
    with progress_of(file.name, quiet) as progress:
        notes = write_file(
            out,
            file,
            format=format,
            compression=compression,
            quality=quality,
            pyramid=pyramid,
            overwrite=overwrite,
            progress=progress,
        )
    print(f"{file}: {size(file.stat().st_size)}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


@contextmanager
def progress_of(name: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a (done, total) callback that shows a bar on a terminal and a few plain lines
    elsewhere, on stderr.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if quiet:
        yield None
    elif not console.is_terminal:
        yield _Lines(name)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(name)
            yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Print a line whenever a further quarter is done; nothing for what is done in a moment."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = PLAIN_SHARE

    def __call__(self, done: int, total: int) -> None:
        if total >= PLAIN_LEAST and self._next * total <= done < total:
            self._next += PLAIN_SHARE
            print(f"{self._name}: {100 * done // total} %", file=sys.stderr, flush=True)
