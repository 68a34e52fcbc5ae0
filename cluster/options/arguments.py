"""The arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

In = Annotated[
    str | None, typer.Argument(metavar="IN", help="An image file, a zarr folder, or a URL of one.")
]
Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of the result, an OME-Zarr image.")
]
NewOut = Annotated[
    Path | None, typer.Argument(metavar="OUT", help="Folder for the result, an OME-Zarr image.")
]
RunOrOut = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of the result, or a submitted run's handle.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over", help="Also when another driver works there, because that one hangs."
    ),
]
