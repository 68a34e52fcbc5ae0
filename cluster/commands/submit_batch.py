"""`gigarestore submit batch`: many images as one submission, checked as `batch` would."""

from __future__ import annotations

import glob
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.batches.batch_manifest import SUFFIXES, Entry, manifest_text, read_entries
from cluster.batches.batch_settings import BatchSettings as Whole
from cluster.batches.batch_settings import sort_out
from cluster.batches.folder import BatchFolder
from cluster.commands.batch import batch
from cluster.commands.submit_arguments import (
    check_printable,
    check_where,
    command_values,
    is_elsewhere,
    with_output,
)
from cluster.options.options import flag_of
from cluster.submission.settings import Loaded
from cluster.submission.submission import BATCH, MANIFEST, Submission, code_folder, new_run_id
from orchestrator.errors import PlanError


def batch_submission(words: list[str], loaded: Loaded) -> Submission:
    """Return the submission of batch's arguments; raises PlanError on what `batch` itself would
    refuse.
    """
    settings = loaded.settings
    values = command_values(batch, words)
    sources = list(values["sources"])
    (options, whole) = sort_out(values)
    name = str(settings.submit.backend)
    check_where(whole.shared.get("executor", "ray"), whole.shared.get("address"))
    _check_options(values, loaded)
    if name == "kuberay":
        from cluster.submission.kuberay.rayjob_manifest import check_places

        if settings.kuberay.copy_to is not None:
            raise PlanError(
                "--copy-to is for one image; `gigarestore export` copies those of a batch"
            )
        places = [("IN", source) for source in sources]
        check_places(
            [*places, ("OUT", str(values["outdir"])), ("--mask", options.get("mask"))],
            settings.kuberay,
        )
    output = os.path.abspath(values["outdir"])
    check_printable(output)
    submission = Submission(
        run_id=new_run_id(),
        arguments=(
            BATCH,
            *with_output(words, output, lambda changed: _means(changed, values, output)),
        ),
        output=output,
        directory=os.getcwd(),
        settings=settings,
        code=code_folder(),
    )
    if any(is_elsewhere(next(glob.iglob(source), source), name) for source in sources):
        for source in sources:
            if Path(source).suffix.lower() not in SUFFIXES:
                Entry(source, {**options, "path": source}).spec()
        return submission
    entries = read_entries(sources, options)
    BatchFolder(Path(output)).check(entries)
    if (shares := submission.shares or 1) > len(entries):
        raise PlanError(f"--shares {shares} are more than {len(entries)} images; give fewer")
    return _fixed(submission, entries, whole) if name == "slurm" else submission


def _check_options(values: dict[str, Any], loaded: Loaded) -> None:
    """Raise PlanError for options of `batch` that a submitted one has not, and for shares that its
    backend has not.
    """
    if values["overwrite"]:
        raise PlanError(
            "--overwrite: a submitted batch may begin again, and would restore all of it anew each "
            "time; remove OUTDIR first"
        )
    if values["share"] or values["old_share"] or values["array"]:
        raise PlanError(
            "--share and --array are the scheduler's to give; give --shares N, with SLURM"
        )
    if loaded.origins.get("slurm.shares") == "flag" and loaded.settings.submit.backend != "slurm":
        raise PlanError("--shares is for slurm; on ray and kuberay all images share all workers")


def _fixed(submission: Submission, entries: list[Entry], whole: Whole) -> Submission:
    """Return it with the images as they are now: tasks that begin on different days must mean the
    same shares.
    """
    shared = [word for name, value in whole.shared.items() for word in (flag_of(name), str(value))]
    options = ["--open", str(whole.window), "--verify" if whole.verify else "--no-verify", *shared]
    if "--take-over" in submission.arguments:
        options.append("--take-over")
    arguments = (BATCH, f"{submission.folder}/{MANIFEST}", submission.output, *options)
    return replace(submission, arguments=arguments, manifest=manifest_text(entries))


def _means(words: list[str], values: dict[str, Any], output: str) -> bool:
    return command_values(batch, words) == {**values, "outdir": Path(output)}
