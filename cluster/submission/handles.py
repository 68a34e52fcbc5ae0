"""Handles of submitted runs, what is remembered of them, and the states that all backends share."""

from __future__ import annotations

import enum
import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.options.exit_codes import RESUMABLE
from cluster.submission.settings import SubmissionSettings
from cluster.submission.submission import FOLDER, Submission
from orchestrator.errors import PlanError
from orchestrator.run_folder import STATE
from storage import atomic_files

PATTERNS = {
    "slurm": r"\d+(_\d+)?",
    "ray": r"[A-Za-z0-9._-]+@https?://[^\s/]+(/\S*)?",
    "k8s": r"[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9.-]*",
}
# A driver beats every two seconds; one that has not for so long is dead, seconds.
SILENCE = 60.0


class JobState(enum.StrEnum):
    """Where a submitted run is."""

    PENDING = "pending"
    RUNNING = "running"
    REQUEUED = "requeued"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    NODE_FAIL = "node failed"
    OUT_OF_MEMORY = "out of memory"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        return self not in (JobState.PENDING, JobState.RUNNING, JobState.REQUEUED, JobState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a backend says of a run."""

    state: JobState
    code: int | None = None
    """The driver's exit code, where it is known."""
    reason: str = ""

    @classmethod
    def of_code(cls, code: int) -> JobStatus:
        """Return how a run ended whose driver left this exit code."""
        states = {0: JobState.SUCCEEDED, RESUMABLE: JobState.INTERRUPTED}
        return cls(states.get(code, JobState.FAILED), code)

    @property
    def exit_code(self) -> int:
        """Return what `wait` exits with: the driver's own code, else 0, 1, or 75 where `resume` can
        go on.
        """
        if self.state is JobState.SUCCEEDED:
            return 0
        if self.state in (JobState.FAILED, JobState.OUT_OF_MEMORY):
            return self.code or 1
        return RESUMABLE


@dataclass(frozen=True, slots=True)
class Handle:
    """A submitted run's name: slurm:ID, ray:ID@URL or k8s:NAMESPACE/NAME."""

    backend: str
    rest: str

    def __str__(self) -> str:
        return f"{self.backend}:{self.rest}"

    @classmethod
    def parse(cls, text: str) -> Handle | None:
        """Return the handle that `text` is, None when it is something else, such as a path."""
        backend, colon, rest = text.partition(":")
        rest = re.sub(r"@(https?):/(?!/)", r"@\1://", rest)  # what a path type makes of an address
        if not colon or backend not in PATTERNS or re.fullmatch(PATTERNS[backend], rest) is None:
            return None
        return cls(backend, rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionRecord:
    """What is remembered of a submission, beside OUT and in the user's own folder."""

    handle: str
    run_id: str
    name: str
    output: str
    directory: str
    arguments: list[str]
    settings: dict[str, Any]
    code: str | None
    submitted: float
    earlier: list[str] = field(default_factory=list)
    """Identities of the submissions that this one went on from."""

    @property
    def folder(self) -> Path | None:
        """Return the submission's folder where this machine sees it."""
        folder = Path(self.output) / STATE / FOLDER / self.run_id
        return folder if folder.is_dir() else None

    def shown(self) -> dict[str, Any]:
        """Return what is remembered as others may see it: URLs without signatures, the job's
        variables without values.
        """
        common = self.settings["submit"]
        environment = [f"{text.partition('=')[0]}=..." for text in common["env"]]
        settings = {**self.settings, "submit": {**common, "env": environment}}
        return {
            **asdict(self),
            "arguments": _redacted(self.arguments),
            "settings": _redacted(settings),
        }

    def submission(self, run_id: str) -> Submission:
        """Return the same submission under a new identity, to go on with what is at OUT."""
        return Submission(
            run_id=run_id,
            arguments=tuple(self.arguments),
            output=self.output,
            directory=self.directory,
            settings=SubmissionSettings.model_validate(self.settings),
            code=self.code,
            earlier=(*self.earlier, self.run_id),
        )


class SubmissionRegistry:
    """The submissions of this user: one JSON file each."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        env = os.environ if environment is None else environment
        home = env.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        self.folder = Path(home) / "gigarestore" / "submissions"

    def keep(self, record: SubmissionRecord) -> None:
        """Remember a submission, also beside OUT when its folder is there."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in filter(None, (self.folder, record.folder)):
            name = "record.json" if folder == record.folder else f"{record.run_id}.json"
            atomic_files.replace_text(
                folder / name, json.dumps(asdict(record), indent=1), fsync=False
            )

    def all(self) -> list[SubmissionRecord]:
        """Return the submissions that this user made, the latest first."""
        return _latest(list(self.folder.glob("*.json")))

    def find(self, target: str) -> tuple[Handle, SubmissionRecord | None]:
        """Return the latest submission that a handle or an output names; raises PlanError where
        there is none.
        """
        if handle := Handle.parse(target):
            names = (
                str(handle),
                str(handle).partition("_")[0] if handle.backend == "slurm" else None,
            )
            return handle, next((record for record in self.all() if record.handle in names), None)
        output = target if "://" in target else os.path.abspath(target)
        beside = _latest(list((Path(output) / STATE / FOLDER).glob("*/record.json")))
        known = beside or [record for record in self.all() if record.output == output]
        if not known:
            raise PlanError(
                f"{target} is no handle and no output that was submitted; `gigarestore list` "
                "names those"
            )
        latest = Handle.parse(known[0].handle)
        assert latest is not None
        return latest, known[0]


def submitted_as(target: Path) -> Handle | None:
    """Return the handle that `target` is, or that of the latest submission of this output; None
    where there is none.
    """
    try:
        return SubmissionRegistry().find(str(target))[0]
    except PlanError:
        return None


def silence(record: SubmissionRecord | None) -> float | None:
    """Return for how long a run's driver has given no sign of life, s, by the clock of OUT's file
    system.

    None where this machine does not see its folder, or before the first sign.
    """
    if record is None or record.folder is None:
        return None
    probe = record.folder / f".{uuid.uuid4().hex}"
    try:
        beat = (record.folder / "heartbeat.json").stat().st_mtime
        probe.touch()
        return max(probe.stat().st_mtime - beat, 0.0)
    except OSError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def ended_code(folder: Path | None) -> int | None:
    """Return the exit code that the last driver left in its folder, None when it left none or is
    not seen from here.
    """
    ending = None if folder is None else read_json(folder / "exit.json")
    return None if ending is None else int(ending["code"])


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a small file's object, None where it is absent or not whole."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _redacted(value: Any) -> Any:
    """Return a JSON value with what URLs carry of credentials taken out of its texts."""
    from storage.byte_source import redact

    match value:
        case str():
            return redact(value)
        case list():
            return [_redacted(item) for item in value]
        case dict():
            return {key: _redacted(item) for key, item in value.items()}
    return value


def _latest(paths: list[Path]) -> list[SubmissionRecord]:
    records = []
    for path in paths:
        values = read_json(path)
        if values is not None and set(values) == set(SubmissionRecord.__slots__):
            records.append(SubmissionRecord(**values))
    return sorted(records, key=lambda record: -record.submitted)
