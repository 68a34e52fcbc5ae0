"""The folder of one run: the published image at its root, the run's private state in
`.gigarestore/` beside it.

    OUT/zarr.json                    OME-Zarr 0.5 metadata, written last: before that nothing looks
                                     like an image
    OUT/0, OUT/1, ...                the published pyramid
    OUT/.gigarestore/job.toml        the resolved specification
    OUT/.gigarestore/journal         committed tiles; its header holds the fingerprint
    OUT/.gigarestore/attempts/N      the attempt that may write here (storage.run_store.fencing)
    OUT/.gigarestore/events.jsonl    what happened
    OUT/.gigarestore/domain.json     whether the prior knows such images
    OUT/.gigarestore/input.zarr      the staged input, when it cannot be read by windows
    OUT/.gigarestore/arrays/ID       inputs that were given as arrays (orchestrator.api)
    OUT/.gigarestore/incoming        the staged input of a run that is about to replace this one
    OUT/.gigarestore/measured/K.zarr the measurement pooled for level K, when a level needs it
    OUT/.gigarestore/work/K.zarr     level K's cells
    OUT/.gigarestore/regions/N       the run of region N
    OUT/.gigarestore/submissions/ID  scripts, logs and signs of life of a run that was submitted to
                                     a cluster
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import PlanError

STATE = ".gigarestore"


@dataclass(frozen=True, slots=True)
class RunDir:
    """Names of everything in a run's folder."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / STATE

    @property
    def job(self) -> Path:
        return self.state / "job.toml"

    @property
    def journal(self) -> Path:
        return self.state / "journal"

    @property
    def events(self) -> Path:
        return self.state / "events.jsonl"

    @property
    def domain(self) -> Path:
        return self.state / "domain.json"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def attempts(self) -> Path:
        return self.state / "attempts"

    @property
    def staged_input(self) -> Path:
        return self.state / "input.zarr"

    @property
    def staged_mask(self) -> Path:
        return self.state / "mask.zarr"

    @property
    def incoming(self) -> Path:
        return self.state / "incoming"

    @property
    def arrays(self) -> Path:
        return self.state / "arrays"

    @property
    def submissions(self) -> Path:
        return self.state / "submissions"

    def measured(self, level: int) -> Path:
        return self.state / "measured" / f"{level}.zarr"

    def region(self, number: int) -> Path:
        return self.state / "regions" / str(number)

    def work(self, level: int) -> Path:
        return self.state / "work" / f"{level}.zarr"

    @property
    def published(self) -> bool:
        return (self.root / "zarr.json").exists()

    @classmethod
    def existing(cls, path: Path) -> RunDir:
        """Return the folder of a run that was started; raises PlanError where there is none."""
        run = cls(path)
        if not run.job.exists():
            what = (
                "is not a run's output (it has no .gigarestore/job.toml)"
                if path.exists()
                else "does not exist"
            )
            raise PlanError(f"{path} {what}; give the OUT of an earlier `gigarestore restore`")
        return run


def check_output(run: RunDir, overwrite: bool) -> None:
    """Raise PlanError where OUT's name is that of a file, or what is there may not be replaced."""
    if run.root.suffix.lower() in {".png", ".jpg", ".jpeg", ".tif", ".tiff"}:
        zarr_name = run.root.with_suffix(".zarr")
        raise PlanError(
            f"{run.root}: OUT is a folder (OME-Zarr); restore to {zarr_name}, then "
            f"`gigarestore export {zarr_name} {run.root}`"
        )
    if not run.root.exists() or (run.root.is_dir() and _untouched(run)):
        return
    if overwrite and (run.job.exists() or run.published):
        return
    if overwrite:
        raise PlanError(
            f"{run.root} is not a gigarestore output, so --overwrite leaves it alone; choose "
            "another OUT"
        )
    if run.job.exists() and not run.published:
        raise PlanError(
            f"{run.root} holds an unfinished run; `gigarestore resume {run.root}` goes on, "
            "--overwrite begins again"
        )
    raise PlanError(f"{run.root} exists; choose another OUT, or --overwrite to replace it")


def _untouched(run: RunDir) -> bool:
    """Tell whether a folder is empty, but for what a start leaves that was killed before it wrote
    its job.
    """
    return {path.name for path in run.root.iterdir()} <= {STATE} and not run.job.exists()
