"""How far a run is, read from its journal and events alone: works while it runs and after it died."""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.monitoring.throughput import Throughput
from orchestrator.planning.resolve import load_plan
from orchestrator.run.history import ended, read_events
from orchestrator.run.tile_records import parse_tile_record, substituted_keys
from orchestrator.run_folder import RunDir
from storage.run_store.journal import read_records


@dataclass(slots=True)
class _Notified:
    """What the event log says."""

    failures: int = 0
    last_failure: str = ""
    outcome: str = ""
    pace: Throughput = field(default_factory=Throughput)


def read_status(root: Path) -> dict[str, Any]:
    """Return state (running, published, failed or unfinished), tiles done per level, failed tries,
    pace.

    workers, batch (tiles), nfe_per_second and seconds_left are those of the last attempt; the last
    is None unless the run is under way and has committed a tile.
    """
    run = RunDir.existing(root)
    plan = load_plan(run)
    records = read_records(run.journal) if run.journal.exists() else []
    done = Counter(parse_tile_record(record).level for record in records)
    levels = [
        {"level": lv.index, "done": done[lv.index], "tiles": lv.grid.count}
        for lv in reversed(plan.levels)
    ]
    told = _events(run.events)
    now = time.time()
    state = "published" if run.published else "running" if _locked(run.lock) else "unfinished"
    if state == "unfinished" and told.outcome == "failed":
        state = "failed"
    return {
        "output": str(root),
        "state": state,
        "done": sum(done.values()),
        "tiles": sum(level["tiles"] for level in levels),
        "levels": levels,
        "failures": told.failures,
        "last_failure": told.last_failure,
        "substituted": [key._asdict() for key in substituted_keys(run)],
        "workers": len(told.pace.workers) if state == "running" else 0,
        "batch": told.pace.batch,
        "nfe_per_second": told.pace.nfe_per_second(now) if state == "running" else 0.0,
        "path_left": told.pace.path,
        "seconds_left": told.pace.seconds_left(now) if state == "running" else None,
    }


def _events(path: Path) -> _Notified:
    told = _Notified()
    for event in read_events(path):
        match event["event"]:
            case "RunStarted":
                told.outcome = ""
                told.pace.started(event["time"], event["tiles"], event["done"])
            case "WorkerStarted":
                told.pace.workers.add(event["worker"])
            case "WorkerLost":
                told.pace.workers.discard(event["worker"])
            case "BatchCommitted":
                told.pace.committed(
                    ended(event),
                    event["seconds"],
                    len(event["keys"]),
                    event["nfe"],
                    event.get("path", 0),
                )
            case "BatchFailed" | "TileGivenUp":
                told.failures = told.failures + 1
                told.last_failure = event["cause"]
            case "RunFinished":
                told.outcome = event["outcome"]
    return told


def _locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
