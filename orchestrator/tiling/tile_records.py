"""What a run's journal says of a tile: one record for every tile that was committed."""

from __future__ import annotations

from orchestrator.errors import PlanError
from orchestrator.run_folder import RunDir
from orchestrator.tiling.grid import TileKey
from storage.run_store.journal import read_records


def tile_record(key: TileKey, *, substituted: bool = False) -> str:
    """Return a committed tile's journal record; substituted: it could not be restored
    (orchestrator.worker.fallback).
    """
    return f"{'F' if substituted else 'T'} {key.level} {key.row} {key.col}"


def parse_tile_record(record: str) -> TileKey:
    """Return the tile of a journal record; raises PlanError on anything else."""
    match record.split(" "):
        case ["T" | "F", level, row, col] if level.isdigit() and row.isdigit() and col.isdigit():
            return TileKey(int(level), int(row), int(col))
    raise PlanError(
        f"unknown journal record {record!r}; the run was written by another version: restore to a "
        "new OUT"
    )


def substituted_keys(run: RunDir) -> list[TileKey]:
    """Return the tiles that a run's journal says could not be restored."""
    records = read_records(run.journal) if run.journal.exists() else iter(())
    return list(
        dict.fromkeys(parse_tile_record(record) for record in records if record.startswith("F "))
    )
