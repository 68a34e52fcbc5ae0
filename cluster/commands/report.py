"""The commands that look at a run without touching it: status and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.batches.folder import BatchFolder
from cluster.options import options as opt
from cluster.submission.handles import submitted_as
from cluster.terminal.progress import duration
from orchestrator.errors import PlanError

Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of the result, an OME-Zarr image.")
]


def status(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder of the result, or a submitted run's handle."),
    ],
    as_json: opt.AsJson = False,
) -> None:
    """Say how far the run at OUT is, also while it runs and after it died."""
    from orchestrator.monitoring.run_progress import read_status

    if (handle := submitted_as(out)) is not None:
        from cluster.commands.submissions import print_status

        print_status(handle, as_json)
        return

    if BatchFolder(out).exists:
        from cluster.batches.batch_status import print_batch_status

        print_batch_status(out, as_json)
        return
    found = read_status(out)
    if as_json:
        print(json.dumps(found))
        return
    print_run(out, found)


def print_run(out: Path, found: dict[str, Any]) -> None:
    """Print what `read_status` found."""
    done = found["done"]
    tiles = found["tiles"]
    print(f"{out}: {found['state']}, {done} of {tiles} tiles ({100 * done / tiles:.1f} %)")
    for line in found["levels"]:
        print(f"  level {line['level']}: {line['done']} of {line['tiles']} tiles")
    if found["state"] == "running" and found["seconds_left"] is not None:
        print(
            f"  {found['workers']} workers, batches of {found['batch']:.1f} tiles, {found['nfe_per_second']:.1f} NFE/s, "
            f"about {duration(found['seconds_left'])} left"
        )
    if found["failures"]:
        print(f"  {found['failures']} failed tries; the last: {found['last_failure']}")
    for tile in found["substituted"]:
        print(
            f"  not restored: level {tile['level']} row {tile['row']} column {tile['col']}; filled"
        )
    if found["state"] in ("unfinished", "failed"):
        print(f"  go on with: gigarestore resume {out}")


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
