"""What the arguments of a submission mean: read by the very commands that will run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from cluster.commands.restore import job_of, restore
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec


def is_elsewhere(path: str | None, backend_name: str) -> bool:
    """Tell whether IN is a file on the cluster alone: then it is planned there."""
    if backend_name == "slurm" or (path and Path(path).exists()):
        return False
    return backend_name == "kuberay" or (path is not None and Path(path).is_absolute())


def with_output(
    arguments: list[str], output: str, is_wanted: Callable[[list[str]], bool]
) -> list[str]:
    """Return the arguments with the absolute OUT: the driver may not find the folder that a
    relative one begins in.

    The word that is OUT is the one whose change changes nothing else of the job; none is where a
    job file names OUT.
    """
    for place, word in enumerate(arguments):
        if os.path.abspath(word) == output:
            changed = [*arguments[:place], output, *arguments[place + 1 :]]
            if is_wanted(changed):
                return changed
    return arguments


def check_where(executor: str, address: str | None) -> None:
    """Raise PlanError for options of where it runs that a submitted run has not."""
    if executor != "ray" or address is not None:
        raise PlanError(
            "--executor serial and --address are for `restore`; a submitted run uses the cluster's "
            "own Ray"
        )


def check_printable(output: str) -> None:
    """Raise PlanError for an output that a script or manifest cannot name."""
    if not output.isprintable():
        raise PlanError(f"OUT {output!r} has line breaks or control characters; choose another")


def command_values(function: Callable[..., None], arguments: list[str]) -> dict[str, Any]:
    """Return the parameters of a command of ours for these arguments; its usage errors are ours."""
    alone = typer.Typer(add_completion=False)
    alone.command()(function)
    command = typer.main.get_command(alone)
    return dict(command.make_context("submit", list(arguments)).params)


def parse_restore(arguments: list[str]) -> tuple[JobSpec, bool]:
    """Return the job that `gigarestore restore` would run, and whether it may overwrite; its usage
    errors are ours.
    """
    parameters = command_values(restore, arguments)
    spec = job_of(parameters, "submit IN OUT [options of restore]")
    return spec, bool(parameters["overwrite"])
