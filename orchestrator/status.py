"""How far a run is, read from its journal and events alone: works while it runs and after it died."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from pathlib import Path
from typing import Any

from orchestrator.resolve import load_plan
from orchestrator.rundir import RunDir, parse_tile_record, substituted_keys
from storage.journal import read_records


def read_status(root: Path) -> dict[str, Any]:
    """Return state (running, published, failed or unfinished), tiles done per level, failed tries."""
    run = RunDir.existing(root)
    plan = load_plan(run)
    records = read_records(run.journal) if run.journal.exists() else []
    done = Counter(parse_tile_record(record).level for record in records)
    levels = [{"level": lv.index, "done": done[lv.index], "tiles": lv.grid.count} for lv in reversed(plan.levels)]
    failures, last_failure, outcome = _events(run.events)
    state = "published" if run.published else "running" if _locked(run.lock) else "unfinished"
    if state == "unfinished" and outcome == "failed":
        state = "failed"
    return {
        "output": str(root),
        "state": state,
        "done": sum(done.values()),
        "tiles": sum(level["tiles"] for level in levels),
        "levels": levels,
        "failures": failures,
        "last_failure": last_failure,
        "substituted": [key._asdict() for key in substituted_keys(run)],
    }


def _events(path: Path) -> tuple[int, str, str]:
    failures, last, outcome = 0, "", ""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    break  # the line that a dying driver was writing
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the disk was full while it was written
                if event["event"] in ("BatchFailed", "TileGivenUp"):
                    failures, last = failures + 1, event["cause"]
                elif event["event"] == "RunFinished":
                    outcome = event["outcome"]
    return failures, last, outcome


def _locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
