"""How many tiles a run has and how many are committed: the image's levels and its regions together.

    python -m orchestrator.monitoring.tile_counts OUT

prints how many tiles were committed so far: what a script compares before and after an attempt.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.job.plan import Plan
from orchestrator.run_folder import RunDir
from orchestrator.tiling.tile_records import parse_tile_record
from storage.errors import FormatError
from storage.run_store.journal import read_records


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelCount:
    """Tiles of one level of the image, or of one of a region's."""

    region: int | None
    level: int
    tiles: int
    done: int


@dataclass(frozen=True, slots=True)
class TileCounts:
    """Tiles of a run, coarsest level first: the regions', then the image's."""

    levels: tuple[LevelCount, ...]

    @property
    def tiles(self) -> int:
        return sum(level.tiles for level in self.levels)

    @property
    def done(self) -> int:
        return sum(level.done for level in self.levels)


def count_tiles(run: RunDir, plan: Plan) -> TileCounts:
    """Return what the journals say; tiles that were filled count as committed."""
    levels: list[LevelCount] = []
    for number, region in enumerate(plan.regions):
        part = RunDir(run.region(number))
        if run.published and not part.journal.exists():  # what was needed of it is in the image
            levels += _finished(region.plan, number)
        else:
            levels += _counted(part, region.plan, number)
    return TileCounts((*levels, *_counted(run, plan, None)))


def tiles_of(plan: Plan) -> int:
    """Return the number of tiles of a plan and its regions."""
    regions = sum(tiles_of(region.plan) for region in plan.regions)
    return regions + sum(level.grid.count for level in plan.levels)


def committed_records(run: RunDir) -> int:
    """Return how often tiles were committed, those of regions included.

    A tile whose cells were lost is committed again and counts again: this says whether an attempt
    did anything. Needs no plan.
    """
    folders = [run.root, *sorted(run.state.glob("regions/*"))]
    journals = [RunDir(folder).journal for folder in folders]
    return sum(1 for path in journals if path.exists() for _ in read_records(path))


def _counted(run: RunDir, plan: Plan, region: int | None) -> Iterator[LevelCount]:
    records = read_records(run.journal) if run.journal.exists() else iter(())
    done = Counter(key.level for key in {parse_tile_record(record) for record in records})
    for level in reversed(plan.levels):
        tiles = level.grid.count
        yield LevelCount(region=region, level=level.index, tiles=tiles, done=done[level.index])


def _finished(plan: Plan, region: int) -> Iterator[LevelCount]:
    for level in reversed(plan.levels):
        tiles = level.grid.count
        yield LevelCount(region=region, level=level.index, tiles=tiles, done=tiles)


def main() -> int:
    """Print the number for the run that is named; return the exit code."""
    try:
        print(committed_records(RunDir(Path(sys.argv[1]))))
    except (FormatError, OSError) as err:
        print(err, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
