"""Submission: one restoration or batch that a cluster is to run, as a frozen value; every backend
renders its text from it.
"""

from __future__ import annotations

import re
import shlex
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from cluster.submission.settings import SubmissionSettings
from orchestrator.run_folder import STATE

BATCH = "batch"
# Under OUT/.gigarestore: one folder per submission, which a new run in OUT leaves alone.
FOLDER = "submissions"
MANIFEST = "manifest.jsonl"
# Below it, of an array: one folder per task.
SHARE = "share-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What to run, with which settings, and where its files are."""

    run_id: str
    """Our own identity, 12 hexadecimal digits: job ids of schedulers repeat."""
    arguments: tuple[str, ...]
    """The arguments of `gigarestore restore`, or those of `batch` behind that word."""
    output: str
    """OUT or OUTDIR: an absolute path, or an address of a store."""
    directory: str
    """Where relative paths among the arguments begin."""
    settings: SubmissionSettings
    code: str | None
    """Folder to import gigarestore from; None: it is installed."""
    earlier: tuple[str, ...] = ()
    """Identities of the submissions that this one goes on from: what they began is resumed rather
    than restored.
    """

    manifest: str | None = None
    """A batch's images as they were when it was submitted, to be kept in `folder` as MANIFEST."""

    @property
    def is_batch(self) -> bool:
        """True for many images."""
        return self.arguments[:1] == (BATCH,)

    @property
    def shares(self) -> int | None:
        """Return into how many tasks of a SLURM array the images go, None for one job."""
        return (
            self.settings.slurm.shares
            if self.is_batch and self.settings.submit.backend == "slurm"
            else None
        )

    @property
    def name(self) -> str:
        """Return a name that every scheduler takes: letters, digits and dashes, 40 at most."""
        wanted = self.settings.submit.name or Path(self.output).stem
        plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")[:32].strip("-")
        return f"gr-{plain or 'run'}"

    @property
    def folder(self) -> str:
        """Return the folder of scripts, logs, heartbeats and stop files."""
        return f"{self.output}/{STATE}/{FOLDER}/{self.run_id}"

    def driver(self, *, python: str) -> list[str]:
        """Return the command that restores or goes on, beats, and stops when told
        (cluster.on_node.driver).
        """
        common = ["--output", self.output, "--folder", self.folder, "--directory", self.directory]
        earlier = [word for run_id in self.earlier for word in ("--earlier", run_id)]
        array = [] if self.shares is None else ["--array"]
        return [
            python,
            "-u",
            "-m",
            "cluster.on_node.driver",
            *common,
            *earlier,
            *array,
            "--",
            *self.arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Return the variables that the user wants set."""
        return dict(text.split("=", 1) for text in self.settings.submit.env)


def new_run_id() -> str:
    """Return an identity for a submission."""
    return uuid.uuid4().hex[:12]


def code_folder() -> str | None:
    """Return the folder that gigarestore is imported from, None when it is an installed copy that
    every node has.
    """
    root = Path(__file__).resolve().parents[2]
    return (
        None
        if any(part in ("site-packages", "dist-packages") for part in root.parts)
        else str(root)
    )


def this_python() -> str:
    return sys.executable


def quoted(words: list[str]) -> str:
    """Return words as the shell reads them back, whatever is in them."""
    return shlex.join(words)
