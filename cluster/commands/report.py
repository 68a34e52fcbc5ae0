"""The commands that look at a run without touching it: status and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.options import options as opt
from cluster.options.arguments import Out
from cluster.terminal.progress import duration
from orchestrator.errors import PlanError


def report(
    out: Out,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Where the picture goes.", show_default="OUT/.gigarestore/report.svg"
        ),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Draw a run's timeline and utilisation from its event log (SVG), and say what its workers did."""
    from cluster.terminal.timeline import draw
    from orchestrator.run.history import read_history
    from orchestrator.run_folder import RunDir

    run = RunDir.existing(out)
    found = read_history(run.events)
    if not found.attempts:
        raise PlanError(f"{run.events} tells of no run; the run at {out} has not begun")
    target = run.state / "report.svg" if file is None else file
    try:
        target.write_text(draw(found, str(out)), encoding="utf-8")
    except OSError as err:
        raise PlanError(f"cannot write {target}: {err.strerror}; choose another --file") from None
    facts: dict[str, Any] = {
        "outcome": found.outcome or "unfinished",
        "attempts": found.attempts,
        "tiles": found.tiles,
        "done": found.done,
        "nfe": found.nfe,
        "filled": found.filled,
        "seconds": found.seconds,
        "failures": found.failures,
        "given_up": found.given_up,
        "workers": [
            {
                "worker": worker.name,
                "device": worker.device,
                "tiles": worker.tiles,
                "batches": worker.batches,
                "busy": worker.busy,
                "utilisation": found.utilisation(worker),
                "lost": worker.lost is not None,
            }
            for worker in found.workers.values()
        ],
        "picture": str(target),
    }
    if as_json:
        print(json.dumps(facts))
        return
    print(
        f"{out}: {facts['outcome']}, {found.done} of {found.tiles} tiles, {found.nfe} network evaluations in "
        f"{duration(found.seconds)}, attempts: {found.attempts}, failed tries: {found.failures}"
    )
    for worker in facts["workers"]:
        lost = ", lost" if worker["lost"] else ""
        print(
            f"  {worker['worker']} {worker['device']}: {worker['tiles']} tiles in {worker['batches']} batches, "
            f"busy {worker['utilisation']:.0%}{lost}"
        )
    for time, text in found.notes:
        print(f"  after {duration(time - found.began)}: {text}")
    print(f"timeline: {target}")
