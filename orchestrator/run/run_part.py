"""RunPart: the image of a run, or one of its regions: its folder, its journal, what is committed.

Regions are restored before the image, whose tiles read their pixels. Each has its own folder,
journal and cells within that of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import PlanError
from orchestrator.events import Listener
from orchestrator.job.plan import Plan
from orchestrator.planning.fingerprint import Fingerprint, check_same
from orchestrator.run.prepare import prepare, with_cells
from orchestrator.run_folder import RunDir
from orchestrator.scheduling.remaining_path import RemainingPath
from orchestrator.tiling.grid import TileKey
from orchestrator.tiling.tile_records import parse_tile_record
from storage import atomic_files
from storage.run_store.journal import Journal


@dataclass(slots=True, kw_only=True)
class RunPart:
    """What a driver restores in one go."""

    run: RunDir
    plan: Plan
    journal: Journal
    done: list[TileKey]
    """Tiles that are committed, and whose cells are there as far as somebody needs them."""
    region: int | None = None
    """Number of the region; None for the image."""

    @property
    def tiles(self) -> int:
        return sum(level.grid.count for level in self.plan.levels)

    @property
    def finished(self) -> bool:
        return len(self.done) == self.tiles

    @property
    def path(self) -> int:
        """Tiles on the longest chain that is left."""
        return RemainingPath(self.plan.graph(), self.done).length


def open_parts(
    run: RunDir, plan: Plan, marks: Fingerprint, listeners: Sequence[Listener]
) -> list[RunPart]:
    """Return what is to be restored in this order: the regions, then the image.

    Without the regions where the image is complete. marks: the run's fingerprint.
    """
    image = _open(run, plan, marks)
    if image.finished and run.published:
        return [image]
    _make_ready(image, listeners)
    if image.finished:
        return [image]
    regions = [_open_region(run, plan, marks, number) for number in range(len(plan.regions))]
    return [*regions, image]


def _open_region(run: RunDir, plan: Plan, marks: Fingerprint, number: int) -> RunPart:
    """Open a region; the run's fingerprint stands for what its own would say of the input."""
    folder = RunDir(run.region(number))
    region = plan.regions[number]
    staged = {"path": run.staged_input, "mask": run.staged_mask}
    there = {name: str(path) for name, path in staged.items() if path.exists()}
    source = region.plan.spec.input.model_copy(update=there)
    spec = region.plan.spec.model_copy(update={"input": source, "output": str(folder.root)})
    folder.state.mkdir(parents=True, exist_ok=True)
    atomic_files.replace_text(folder.job, spec.to_toml(), fsync=True)
    region_plan = replace(region.plan, spec=spec)
    part = _open(folder, region_plan, {**marks, "region": number}, number)
    if not (part.finished and folder.published):
        _make_ready(part, [])
    return part


def _open(run: RunDir, plan: Plan, marks: Fingerprint, region: int | None = None) -> RunPart:
    """Open the journal, or create it; raises PlanError for that of another job."""
    if not run.journal.exists():
        journal = Journal.create(run.journal, {"fingerprint": marks})
        return RunPart(run=run, plan=plan, journal=journal, done=[], region=region)
    journal = Journal.take_over(run.journal)
    check_same(journal.header["fingerprint"], marks)
    keys = dict.fromkeys(parse_tile_record(record) for record in journal.records)
    for key in keys:
        if not _exists(plan, key):
            raise PlanError(
                f"the journal names {key}, which this job has not; restore to a new OUT"
            )
    return RunPart(run=run, plan=plan, journal=journal, done=list(keys), region=region)


def _make_ready(part: RunPart, listeners: Sequence[Listener]) -> None:
    """Create what a part's workers need, and leave out tiles whose cells are lost."""
    prepare(part.run, part.plan, listeners)
    part.done = with_cells(part.run, part.plan, part.done)


def _exists(plan: Plan, key: TileKey) -> bool:
    if key.level >= len(plan.levels):
        return False
    grid = plan.levels[key.level].grid
    return key.row < grid.rows.count and key.col < grid.cols.count
