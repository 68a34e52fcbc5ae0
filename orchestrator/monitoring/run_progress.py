"""How far a run is, from its journals and events alone: works while it runs and after it died."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import Any

from orchestrator.job.plan import Plan
from orchestrator.monitoring.history import read_summary
from orchestrator.monitoring.run_summary import RunSummary
from orchestrator.monitoring.tile_counts import LevelCount, count_tiles
from orchestrator.planning.resolve import load_plan
from orchestrator.run_folder import RunDir
from orchestrator.tiling.tile_records import substituted_keys


def read_status(root: Path) -> dict[str, Any]:
    """Return state (running, published, failed or unfinished), tiles done per level, failed tries,
    throughput.

    done and tiles count the regions' too, which `levels` lists with their number. workers, batch
    (tiles), nfe_per_second and seconds_left are those of the last attempt; the last is None unless
    the run is under way and has committed a tile.
    """
    run = RunDir.existing(root)
    plan = load_plan(run)
    counts = count_tiles(run, plan)
    summary = read_summary(run.events)
    state = _state(run, summary)
    status = {
        "output": str(root),
        "state": state,
        "done": counts.done,
        "tiles": counts.tiles,
        "levels": [_line(level) for level in counts.levels],
        "failures": summary.failures,
        "last_failure": summary.last_failure,
        "substituted": _substituted(run, plan),
    }
    return status | _rates(summary, running=state == "running")


def _state(run: RunDir, summary: RunSummary) -> str:
    if run.published:
        return "published"
    if _locked(run.lock):
        return "running"
    return "failed" if summary.outcome == "failed" else "unfinished"


def _rates(summary: RunSummary, *, running: bool) -> dict[str, Any]:
    now = time.time()
    throughput = summary.throughput
    return {
        "workers": summary.times.present if running else 0,
        "batch": throughput.batch,
        "nfe_per_second": throughput.nfe_per_second(now) if running else 0.0,
        "path_left": throughput.path,
        "seconds_left": throughput.seconds_left(now) if running else None,
    }


def _line(count: LevelCount) -> dict[str, Any]:
    line = {"level": count.level, "done": count.done, "tiles": count.tiles}
    return line if count.region is None else {"region": count.region, **line}


def _substituted(run: RunDir, plan: Plan) -> list[dict[str, Any]]:
    tiles: list[dict[str, Any]] = [key._asdict() for key in substituted_keys(run)]
    for number in range(len(plan.regions)):
        keys = substituted_keys(RunDir(run.region(number)))
        tiles += [{"region": number, **key._asdict()} for key in keys]
    return tiles


def _locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
