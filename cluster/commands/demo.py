"""The command `demo`: the whole product once, on a real photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path(
        "demo-out"
    ),
    workers: Annotated[int, typer.Option(help="Ray workers.")] = 2,
) -> None:
    """Restore a real photograph x4 on Ray with the built-in network, verify it, and draw a
    comparison.
    """
    from cluster.evaluation.demonstration import run_demo

    raise typer.Exit(run_demo(out, workers))
