"""The command `report`: a run's timeline as a picture, and what its workers did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.arguments import Out
from cluster.terminal.progress import duration
from orchestrator.errors import PlanError

if TYPE_CHECKING:
    from orchestrator.monitoring.history import History

File = Annotated[
    Path | None,
    typer.Option(
        "--file", help="Where the picture goes.", show_default="OUT/.gigarestore/report.svg"
    ),
]


def report(out: Out, file: File = None, as_json: opt.AsJson = False) -> None:
    """Draw a run's timeline and utilisation (SVG), and say what its workers did."""
    from cluster.terminal.timeline import draw
    from orchestrator.monitoring.history import read_history
    from orchestrator.run_folder import RunDir

    run = RunDir.existing(out)
    history = read_history(run.events)
    if not history.summary.attempts:
        raise PlanError(f"{run.events} tells of no run; the run at {out} has not begun")

    picture = run.state / "report.svg" if file is None else file
    try:
        picture.write_text(draw(history, str(out)), encoding="utf-8")
    except OSError as err:
        raise PlanError(f"cannot write {picture}: {err.strerror}; choose another --file") from None

    if as_json:
        print(json.dumps({**facts_of(history), "picture": str(picture)}))
    else:
        print_history(out, history)
        print(f"timeline: {picture}")


def facts_of(history: History) -> dict[str, Any]:
    """Return a run's figures, and those of each of its workers, as JSON values."""
    summary = history.summary
    workers = [
        {
            "worker": worker.name,
            "device": worker.device,
            "tiles": worker.tiles,
            "batches": worker.batches,
            "busy": worker.busy,
            "utilisation": history.utilisation(worker),
            "lost": worker.lost,
        }
        for worker in history.workers.values()
    ]
    return {
        "outcome": summary.outcome or "unfinished",
        "attempts": summary.attempts,
        "tiles": summary.tiles,
        "done": summary.done,
        "nfe": summary.nfe,
        "filled": summary.filled,
        "seconds": summary.seconds,
        "failures": summary.failures,
        "given_up": summary.given_up,
        "workers": workers,
    }


def print_history(out: Path, history: History) -> None:
    """Print what a run did, a line for each worker and each thing of note."""
    summary = history.summary
    print(
        f"{out}: {summary.outcome or 'unfinished'}, {summary.done} of {summary.tiles} tiles, "
        f"{summary.nfe} network evaluations in {duration(summary.seconds)}, "
        f"attempts: {summary.attempts}, failed tries: {summary.failures}"
    )
    for worker in history.workers.values():
        lost = ", lost" if worker.lost else ""
        print(
            f"  {worker.name} {worker.device}: {worker.tiles} tiles in {worker.batches} batches, "
            f"busy {history.utilisation(worker):.0%}{lost}"
        )
    for moment, text in summary.notes:
        print(f"  after {duration(moment - summary.began)}: {text}")
